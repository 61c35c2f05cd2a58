"""Makes the route table that comes with the package."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from plasticity_env.agents.routing.small_texts import small_texts
from plasticity_env.common import cli
from plasticity_env.common.arguments import check_counts
from plasticity_env.common.errors import InputError
from plasticity_env.common.files import write_text
from plasticity_env.dynamic.fitting import build_bank
from plasticity_env.dynamic.route_table import RouteTable, measure_routes
from plasticity_env.model.loading import load_model


@dataclass(frozen=True)
class SmallTable:
    """Arguments."""

    output_dir: Path = Path("plasticity_env/zoo/routes/bard-llama-6x8")
    """folder of the table"""
    model_name: str = "bard-llama-6x8"
    """embedded name, Hugging Face folder or hub name, or GGUF file"""
    shares: str = "0.3,0.5,0.7"
    """shares of the heads that structures prune, separated by commas"""
    tokens: int = 256
    """tokens of a text"""
    prefix_tokens: int = 32
    """of which are read before a structure is picked"""
    fitted: int = 48
    """texts of each kind that structures are fitted on"""
    measured: int = 96
    """texts of each kind in the table, from other documents"""

    def __post_init__(self) -> None:
        check_counts(self, tokens=2, prefix_tokens=1, fitted=1, measured=1)
        if self.prefix_tokens >= self.tokens:
            raise InputError(f"prefix_tokens must be less than tokens ({self.tokens}), got {self.prefix_tokens}")


def make_small_table(config: SmallTable, say: Callable[[str], None] = print) -> RouteTable:
    """Fit a bank on four kinds of text, run other texts under every structure, and save the table with a README."""
    loaded = load_model(config.model_name)
    fit, measure = small_texts(loaded.tokenizer, config.tokens, config.fitted, config.measured)
    bank = build_bank(loaded.model, fit, cli.numbers(config.shares, "shares"), prefix_tokens=config.prefix_tokens)
    say(f"{len(bank)} structures: {', '.join(bank.names)}")
    table = measure_routes(bank, measure, prefix_tokens=config.prefix_tokens, model=loaded.name)
    table.save(config.output_dir)
    write_text(config.output_dir / "README.md", readme(config, table))
    say(f"{len(table)} texts: {config.output_dir}")
    return table


def readme(config: SmallTable, table: RouteTable) -> str:
    """What the table is and how it was made."""
    structures, version = len(table.structures), platform.python_version()
    return f"""# Route table of {table.model}

What {structures} structures of `{table.model}` cost {len(table)} texts of {table.tokens} tokens, in figures; it holds no text
and no weights. `plasticity/Route-v0` reads it where no other table is given.

Kinds of text: plays (the embedded Shakespeare), manual (the topics of Python's `pydoc`), programs (the standard library of
Python {version}), records (generated JSON lines). The model was trained on the plays alone; on the other kinds its loss
is high, and on records some pruned structures lose less than the dense model. Structures were fitted on {config.fitted} texts
of each kind, from other documents than the {config.measured} that were measured.

Made by `python scripts/make_route_table.py`; another version of Python has other programs and another manual.
"""

"""Cards of tables: the ``README.md`` that the Hub shows, and that ``datasets.load_dataset`` reads the configurations from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

ROUNDING = 1e-6  # nats: masks measured one at a time differ by 3e-7 at most

_CARD = """---
license: apache-2.0
pretty_name: {title}
tags: [pruning, attention-heads, benchmark]
configs:
{configs}
---
# {title}

{what}

{columns}

{made}
"""
_MASK_COLUMNS = {
    "mask": "a string of 0 (pruned) and 1 for each layer",
    "heads": "active heads",
    "flops, flops_kept": "forward FLOPs per token, and their share of the dense model's",
    "calibration_loss": "nats per token on the blocks that the repair was fitted on",
    "reward_loss": "nats per token on the blocks that a search may read",
    "test_loss": "nats per token on test text; in the configuration `masks_test` only: look once, at what you report",
}
_CELL_COLUMNS = {
    "cell": "number of the cell, the same in both configurations",
    "model, text, max_length, ... labels": "the board: cells of one board can be compared",
    "player, fingerprint": "who played in how many rounds, and in what version",
    "share, seed": "share of the units that had to go, and the draw of calibration text",
    "flops_kept": "share of the dense model's forward FLOPs",
    "mask, rounds": "what is left, and the masks after every round: 0 and 1 for each layer",
    "evaluations, forward_tokens, backward_tokens, seconds, machine": "what the player paid",
    "validated": "the episode was replayed by another process",
    "test_losses, dense_losses": "nats per token of every test block; in the configuration `cells_test` only",
}

_ROUTE_COLUMNS = {
    "table, text": "name of a table of `Route-v0`, and number of a text in it, which has a row for each structure",
    "kind": "kind of the text, which no agent sees",
    "structure, share": "name of the structure, and the share of the heads that it prunes",
    "flops_kept, static_flops_kept": "forward FLOPs over the dense model's: the prefix dense, or all under the structure",
    "loss, static_loss": "nats per token after the prefix, which ran dense or under the structure",
    "probe_loss": "nats per token of the prefix under the structure",
}
_PREFIX_COLUMNS = {
    "table, text": "as in `routes`",
    "features": "34 numbers that the dense prefix tells: 32 projections of hidden states, loss, entropy",
    "distance": "distance of the prefix to each kind of text that structures were fitted on",
}


def masks_card(about: Mapping[str, Any], rows: int) -> str:
    """The card of a complete table of masks.

    Args:
        about: What it was measured with.
        rows: How many masks it has.
    """
    free = f" behind its first {whole} layers, which stay whole" if (whole := about.get("whole_layers")) else ""
    what = (
        f"The losses of all {rows:,} masks of the attention heads of {about['model']}{free}: what any search for heads to prune "
        "would find, without running the model."
    )
    shown = [f"| {name} | {value} |" for name, value in about.items() if not isinstance(value, list)]
    shown += [f"| machine | {machine} |" for machine in about["machines"]]
    made = "\n".join(["| measured with | |", "|---|---|", *shown])
    made += f"\n\nPasses are float32: another processor finds the same losses but for some {ROUNDING:g} nats. "
    made += "Here they are rounded to 4e-06."
    return _card(f"Every mask of {about['model']}", ("masks", "masks_test"), what, _MASK_COLUMNS, made)


def cells_card(about: Mapping[str, Any], rows: int) -> str:
    """The card of the leaderboard's cells.

    Args:
        about: Its boards, players and version.
        rows: How many cells it has.
    """
    boards = "\n".join(f"- {board}" for board in about["boards"])
    what = (
        f"{rows:,} cells: what {about['players']} players left of a model at one share of its units, with one draw of "
        f"calibration text.\n\n{boards}"
    )
    made = (
        "The leaderboard keeps no calibration or reward losses, so these cells have none. "
        f"Version {about['version']} of the columns."
    )
    tables = "\n".join(
        f"- {of['table']}: {of['texts']} texts, {len(of['structures'])} structures" for of in about["routes"]
    )
    made += "\n\n" + "\n\n".join(
        (
            "## Routes\n\nWhat each text costs under each structure of a bank: the tables of `plasticity/Route-v0`.\n\n"
            + tables,
            "`routes` holds train texts, `routes_test` test texts, the last quarter of each kind: look once, at what you report.",
            _columns(_ROUTE_COLUMNS),
            "`prefixes` holds what an agent sees of any text.",
            _columns(_PREFIX_COLUMNS),
        )
    )
    names = ("cells", "cells_test", "routes", "routes_test", "prefixes")
    return _card("Leaderboard and route tables of plasticity-env", names, what, _CELL_COLUMNS, made)


def _columns(columns: Mapping[str, str]) -> str:
    return "\n".join(
        ["| column | what it is |", "|---|---|", *(f"| {name} | {text} |" for name, text in columns.items())]
    )


def _card(title: str, names: Sequence[str], what: str, columns: Mapping[str, str], made: str) -> str:
    """A card whose head names a configuration for each Parquet file; the first is the default one."""
    configs = []
    for number, name in enumerate(names):
        configs += [f"- config_name: {name}", f"  data_files: {name}.parquet"]
        configs += ["  default: true"] if not number else []
    return _CARD.format(title=title, configs="\n".join(configs), what=what, columns=_columns(columns), made=made)

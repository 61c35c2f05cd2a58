"""A controller's card: how it was made, what it was measured at and what it cannot do, from the files of its runs."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from plasticity_env.common.digests import read_rows
from plasticity_env.common.errors import InputError, first_line
from plasticity_env.common.values import user_path
from plasticity_env.controllers.network import NetworkConfig

_HEAD = """---
library_name: plasticity-env
license: apache-2.0
tags: [plasticity-env, pruning, attention-heads, reinforcement-learning]
---
# {name}

A controller of [plasticity-env](https://pypi.org/project/plasticity-env): it decides which units of a language model are pruned.

```python
from plasticity_env.controllers import ANNController

controller = ANNController.from_pretrained("{repo}")
```
"""
_LIMITS = (
    "It was trained on the models and the text named above; on others it is untested unless the results say so.",
    "It reads the columns that `controller.json` names; an environment that does not measure them is refused.",
    "Test text of the results decided nothing here, but nobody can tell what was looked at before.",
)
_ARGUMENTS = {
    "dataset": "Text",
    "max_length": "Tokens per block",
    "calibration_blocks": "Calibration blocks",
    "units": "Units",
}


def controller_card(
    network: NetworkConfig,
    info: Mapping[str, Any],
    repo: str,
    run: str | Path | None = None,
    results: str | Path | None = None,
) -> str:
    """Write a card.

    Args:
        network: Shape of the network.
        info: What is known of the training, as it lies beside the weights.
        repo: ``USER/NAME`` on the hub, or a folder.
        run: Folder of the training: its arguments and its last metrics are named.
        results: ``results.json`` of ``plasticity evaluate``: its rows become a table.

    Returns:
        The card in Markdown.

    Raises:
        InputError: A run or results that are not what they should be.
    """
    facts = _made(network, info)
    parts = [_HEAD.format(name=Path(repo).name, repo=repo)]
    if run is not None:
        arguments, last = _run(user_path(run, "run"))
        facts |= {title: arguments[name] for name, title in _ARGUMENTS.items() if name in arguments}
        facts |= {f"Training, last {name}": f"{value:.4g}" for name, value in sorted(last.items())}
    parts.append(
        "\n".join(["## How it was made", "", "| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in facts.items())])
    )
    parts.append("## Results\n\n" + ("Not measured." if results is None else _results(user_path(results, "results"))))
    parts.append("\n".join(["## Limits", "", *(f"- {limit}" for limit in _LIMITS)]))
    return "\n\n".join(parts) + "\n"


def _made(network: NetworkConfig, info: Mapping[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "Network": f"{network.context}, {len(network.head_features)} features of a unit, width {network.width}"
    }
    names = {
        "agent": "Agent",
        "env": "Environment",
        "models": "Trained on",
        "mode": "Mode",
        "repair": "Repair",
        "signals": "Signals",
        "global_step": "Environment steps",
        "seed": "Training seed",
    }
    for name, title in names.items():
        if info.get(name) not in (None, "", []):
            value = info[name]
            facts[title] = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
    return facts


def _run(folder: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """Arguments of a training, without their places, and the episode's metrics that it wrote last."""
    arguments, metrics = folder / "config.yaml", folder / "metrics.jsonl"
    if not arguments.is_file():
        raise InputError(f"{str(folder)!r} is not the folder of a training: it has no config.yaml")
    try:
        read = dict(yaml.safe_load(arguments.read_text(encoding="utf-8")))
        flat = {name: value for part in read.values() if isinstance(part, dict) for name, value in part.items()} | read
        rows = read_rows(metrics) if metrics.is_file() else []
    except (OSError, InputError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise InputError(f"a file of the run in {str(folder)!r} is damaged ({first_line(error)})") from error
    last = {
        name: float(value)
        for row in rows
        for name, value in row.items()
        if name.startswith("episode/") and isinstance(value, int | float) and math.isfinite(value)
    }
    return flat, last


def _results(path: Path) -> str:
    """A table of what a comparison measured, means over its seeds."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
        for row in found["rows"]:
            groups[row["controller"], row["repair"], row["sparsity"], row["flop_price"]].append(row)
        lines = [
            f"| {name} | {repair} | {f'share {share:g}' if share is not None else f'price {price:g}'} | {len(rows)} | "
            f"{fmean(float(row['test_ppl']) for row in rows):.2f} | {fmean(float(row['flops_kept']) for row in rows):.3f} |"
            for (name, repair, share, price), rows in groups.items()
        ]
        what = (
            f"Test perplexity on {found['dataset']} of {found['model']}, {found['test_blocks']} test blocks of "
            f"{found['max_length']} tokens; the dense model has {float(found['dense']['test_ppl']):.2f}."
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{str(path)!r} is not the results.json of a comparison ({first_line(error)}): plasticity evaluate writes one"
        ) from error
    head = ["| controller | repair | asked | seeds | test perplexity | FLOPs kept |", "|---|---|---|---|---|---|"]
    return "\n".join([what, "", *head, *lines])

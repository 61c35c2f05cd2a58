"""Published systems that prune by the text, beside our structures, at equal mean FLOPs.

    python -m plasticity_env.agents.studies.dynamic.published_arms --model_name mixed-llama-4x8 --draws 3

PuDDing, IG-Pruning, Probe Pruning, RAP (its greedy rule and its agent) and IFPruning, written from their papers over the units
that our banks prune. Every arm comes as near to the FLOPs of our structures as its parts allow, and is compared with the
mixture's structure at its own mean FLOPs. Cells go to ``output`` as they finish, and a run that was cut goes on. With
``wikitext`` and ``shakespeare`` the texts are the six kinds of ``route_study``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from plasticity_env.agents.studies.dynamic.kinds_of_text import write_kinds
from plasticity_env.agents.studies.dynamic.published.arm_bench import GRID, ArmBench, Outcome
from plasticity_env.agents.studies.dynamic.published.arm_cells import ArmCell, ArmSetting, arm_cells
from plasticity_env.agents.studies.dynamic.published.if_pruning import play_if
from plasticity_env.agents.studies.dynamic.published.ig_pruning import play_ig
from plasticity_env.agents.studies.dynamic.published.own_structures import play_own, play_static, play_unrepaired
from plasticity_env.agents.studies.dynamic.published.probe_pruning import play_probe
from plasticity_env.agents.studies.dynamic.published.published_report import report
from plasticity_env.agents.studies.dynamic.published.pudding import PuddingArms
from plasticity_env.agents.studies.dynamic.published.rap import play_rap, play_rap_agent
from plasticity_env.common import cli
from plasticity_env.common.arguments import check_counts
from plasticity_env.common.at_work import at_work_on
from plasticity_env.common.errors import InputError, unknown
from plasticity_env.common.values import check_number
from plasticity_env.data.text import TextSplits, load_text
from plasticity_env.model.loading import LoadedModel, load_model

GROUPS = ("static", "own", "unrepaired", "probe", "pudding-blocks", "pudding-heads", "rap", "rap-agent", "ig", "if")


@dataclass(frozen=True)
class PublishedArms:
    """Arguments of the study."""

    model_name: str = "mixed-llama-4x8"
    """embedded name, folder or GGUF file"""
    datasets: tuple[str, ...] = ("mixed:shakespeare", "mixed:python", "mixed:json", "mixed:table")
    """kinds of text: names or files"""
    wikitext: Path | None = None
    """WikiText-2's validation text, for the six kinds of route_study in the place of datasets"""
    shakespeare: Path | None = None
    """a plain text of plays, for the same"""
    texts: Path = Path("runs/kinds")
    """folder for those six kinds and for packages that are downloaded"""
    output: Path = Path("runs/published/cells.jsonl")
    """finished cells, one JSON line each"""
    draws: int = 3
    """calibration draws, with seeds from 0 on"""
    shares: tuple[float, ...] = (0.3, 0.5)
    """shares of the heads that our structures prune; all arms get their FLOPs"""
    groups: tuple[str, ...] = GROUPS
    """arms to play; pudding-heads builds sets of single heads, which takes long on large models"""
    report: bool = False
    """only print the tables of what is finished"""
    setting: ArmSetting = field(default_factory=ArmSetting)
    """what all cells share"""

    def __post_init__(self) -> None:
        check_counts(self, draws=1)
        for share in self.shares:
            check_number("shares", share, 0, 1, above=True, below=True)
        for group in self.groups:
            if group not in GROUPS:
                raise unknown("group of arms", group, list(GROUPS))
        if (self.wikitext is None) != (self.shakespeare is None):
            raise InputError("wikitext and shakespeare belong together: give both files, or neither and datasets")
        if not self.datasets or not self.shares:
            raise InputError("datasets and shares must name at least one each")


def main(config: PublishedArms) -> None:
    """Play every cell that is not finished, and print the tables."""
    file = arm_cells(config.output)
    if not config.report:
        with at_work_on(config.output):
            _play(config)
    print(report([cell for cell in file.read() if cell.table == _table_of(config) and cell.draw < config.draws]))


def _table_of(config: PublishedArms) -> tuple[object, ...]:
    return Path(config.model_name).name, _names(config), config.setting


def _names(config: PublishedArms) -> tuple[str, ...]:
    if config.wikitext is None:
        return config.datasets
    return ("wikipedia", "shakespeare", "python", "c", "german", "json")


def _play(config: PublishedArms) -> None:
    file = arm_cells(config.output)
    done, loaded = {cell.place for cell in file.read()}, None
    for draw in range(config.draws):
        wanted = [
            (group, share)
            for group in config.groups
            for share in (GRID if group == "static" else config.shares)
            if (*_table_of(config), draw, group, share) not in done
        ]
        if not wanted:
            continue
        if loaded is None:
            loaded = load_model(config.model_name, device="cpu", mlp_blocks=1)
            texts = _texts(config, loaded)
        bench = ArmBench(loaded, texts, config.shares, config.setting, draw)
        arms = arms_of(bench)
        for group, share in wanted:
            began = time.process_time()
            played = arms[group](share)
            seconds = time.process_time() - began
            for arm, outcome in played.items():
                place = (Path(config.model_name).name, _names(config), config.setting, draw, group, share, arm)
                cell = ArmCell(*place, outcome.rises.tolist(), outcome.kept.tolist(), round(seconds, 2))
                file.append(asdict(cell))
                rise, kept = float(outcome.rises.mean()), float(outcome.kept.mean())
                print(
                    f"draw {draw}, {share:g}, {arm}: {rise:.4f} nats at {kept:.4f} FLOPs ({seconds:.0f} s)", flush=True
                )


def arms_of(bench: ArmBench) -> Mapping[str, Callable[[float], dict[str, Outcome]]]:
    """What plays each group of arms at a share."""
    pudding = PuddingArms(bench)
    return {
        "static": lambda share: play_static(bench, share),
        "own": lambda share: play_own(bench, share),
        "unrepaired": lambda share: play_unrepaired(bench, share),
        "probe": lambda share: play_probe(bench, share),
        "pudding-blocks": lambda share: pudding.play("blocks", share),
        "pudding-heads": lambda share: pudding.play("heads", share),
        "rap": lambda share: play_rap(bench, share),
        "rap-agent": lambda share: play_rap_agent(bench, share),
        "ig": lambda share: play_ig(bench, share),
        "if": lambda share: play_if(bench, share),
    }


def _texts(config: PublishedArms, loaded: LoadedModel) -> dict[str, TextSplits]:
    length = config.setting.max_length
    if config.wikitext is None or config.shakespeare is None:
        return {name: load_text(name, loaded.tokenizer, block_size=length) for name in config.datasets}
    paths = write_kinds(config.texts, config.wikitext, config.shakespeare)
    return {path.stem: load_text(path, loaded.tokenizer, block_size=length) for path in paths}


if __name__ == "__main__":
    torch.set_num_threads(1)
    cli.run(PublishedArms, main)

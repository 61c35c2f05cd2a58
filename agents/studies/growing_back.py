"""Does growing heads back beat not having pruned them? At equal final FLOPs and equal tokens, with and without distillation.

python -m plasticity_env.agents.studies.growing_back

All arms end with the same number of active heads. ``none`` prunes so many and trains. The others prune ``grown_share`` of all
heads more, train a while, bring as many heads back (with the weights that they had, or with new ones) and train on. A seed
fixes calibration text, the order of the training text and new weights, and is shared by all arms. Cells go to ``output`` as
they finish, and a run that was cut goes on.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plasticity_env.common.arguments import check_counts
from plasticity_env.common.cli import run, words
from plasticity_env.common.errors import InputError
from plasticity_env.common.jsonl_table import CellFile, spread
from plasticity_env.common.values import LARGEST_RATE, check_number
from plasticity_env.data.batches import BlockBatches
from plasticity_env.data.text import TextSplits, load_text
from plasticity_env.growth.grow import grow_attention_heads_gradually
from plasticity_env.growth.initial_weights import find_initial_weights
from plasticity_env.growth.revival import revive_attention_heads
from plasticity_env.model.flops import flops
from plasticity_env.model.loading import load_model
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.repair.whole import repair_model
from plasticity_env.signals.measure import mean_loss
from plasticity_env.strategies.pruning import select_for_pruning
from plasticity_env.training.distillation import Distillation, dense_teacher, distilled_parts
from plasticity_env.training.trainer import PlasticityTrainer, create_plasticity_trainer

NONE, REVIVE = "none", "revive"
T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # Student's t, two-sided 95%, 1, 2, ... degrees


@dataclass(frozen=True)
class Setting:
    """What all cells of one table share, and the arguments of the study."""

    pruned_share: float = 0.5
    """share of all heads that the growing arms prune first"""
    grown_share: float = 0.15
    """share of all heads that they bring back"""
    steps: int = 1000
    """optimizer steps in all"""
    grow_at: int = 200
    """steps before heads come back"""
    gate_steps: int = 100
    """steps until the gate of a new head is open, where it opens slowly"""
    learning_rate: float = 3e-4
    """learning rate of AdamW"""
    batch_size: int = 4
    """sequences in a batch"""
    length: int = 64
    """tokens in a sequence"""
    calibration_blocks: int = 32
    """sequences that heads are ranked and repaired on"""
    test_blocks: int = 128
    """sequences of test text"""

    def __post_init__(self) -> None:
        check_counts(self, steps=1, grow_at=0, gate_steps=0, batch_size=1, length=2, calibration_blocks=1, test_blocks=1)
        check_number("pruned_share", self.pruned_share, 0, 1, above=True, below=True)
        check_number("grown_share", self.grown_share, 0, 1, above=True, below=True)
        check_number("learning_rate", self.learning_rate, 0, LARGEST_RATE, above=True)
        if self.grow_at > self.steps:
            raise InputError(f"grow_at {self.grow_at} comes after the {self.steps} steps: name at most as many")


@dataclass(frozen=True)
class GrowingBackConfig:
    """Arguments of the study."""

    models: str = "bard-gpt2-4x4,bard-llama-4x8"
    """language models, separated by commas"""
    arms: str = "none,revive,random,transfer,lemon,gradmax"
    """none, revive, or initial weights by name"""
    distil: str = "none,logits+hidden"
    """none, or what is distilled from the dense model with weight 0.5: logits, hidden, attention, joined by +"""
    seeds: int = 3
    """seeds 0, 1, ..."""
    output: Path = Path("runs/growing_back/cells.jsonl")
    """finished cells, one JSON line each"""
    report: bool = False
    """only print the tables of what is finished"""
    setting: Setting = Setting()
    """what all cells share"""

    def __post_init__(self) -> None:
        check_counts(self, seeds=1)
        for arm in words(self.arms):
            if arm not in (NONE, REVIVE):
                find_initial_weights(arm)
        for parts in words(self.distil):
            if parts != NONE:
                distilled_parts(parts)


@dataclass(frozen=True)
class Cell:
    """One arm on one model with one seed; losses on test text in nats per token.

    Attributes:
        model, arm, distil, seed, setting: Which.
        pruned, grown, active: Heads that were pruned first, that came back, and that are active at the end.
        flops_kept: Share of the dense model's FLOPs at the end.
        dense, before, after, end: Losses: unpruned, just before and just after heads come back, at
            the end.
        hidden: Relative squared error of the hidden states at the last step, where they are distilled.
        seconds: Wall clock.
    """

    model: str
    arm: str
    distil: str
    seed: int
    setting: Setting
    pruned: int
    grown: int
    active: int
    flops_kept: float
    dense: float
    before: float
    after: float
    end: float
    hidden: float | None
    seconds: float

    @property
    def key(self) -> tuple[object, ...]:
        """What tells cells apart."""
        return (self.model, self.arm, self.distil, self.seed, self.setting)


def cell_file(path: Path) -> CellFile[Cell]:
    """The study's cells in a JSON lines file."""
    return CellFile(path, lambda row: Cell(**{**row, "setting": Setting(**row["setting"])}), "this study")


def main(config: GrowingBackConfig) -> None:
    """Measure every cell that is not finished, and print the tables."""
    file, setting = cell_file(config.output), config.setting
    done = {cell.key for cell in file.read()}
    for seed in range(config.seeds):
        for model in words(config.models):
            for distil in words(config.distil):
                for arm in words(config.arms):
                    if config.report or (model, arm, distil, seed, setting) in done:
                        continue
                    cell = measured(model, arm, distil, seed, setting)
                    file.append(asdict(cell))
                    print(f"{model} {arm} {distil} seed {seed}: {cell.end:.4f} ({cell.seconds:.0f} s)", flush=True)
    print(tables([cell for cell in file.read() if cell.setting == setting]))


def measured(name: str, arm: str, distil: str, seed: int, setting: Setting) -> Cell:
    """Play one arm."""
    began = time.perf_counter()
    loaded = load_model(name, device="cpu")
    model, text = loaded.model, load_text("shakespeare", loaded.tokenizer, block_size=setting.length)
    draw = torch.Generator().manual_seed(seed)
    calibration = _drawn(text, setting, draw)
    test, size, whole = text.blocks("test")[: setting.test_blocks], 16, flops(model, setting.length)
    dense = mean_loss(model, test, size)
    distillation = _distillation(model, distil)
    heads = model.shape[0] * model.heads
    grown = max(1, round(setting.grown_share * heads))
    pruned = round(setting.pruned_share * heads) - (grown if arm == NONE else 0)
    model.prune(select_for_pruning(model, pruned, "residual_stepwise", input_ids=calibration, generator=draw))
    repair_model(model, "least_squares", calibration)
    trainer = create_plasticity_trainer(
        model,
        BlockBatches(text.blocks("train"), setting.batch_size, seed),
        learning_rate=setting.learning_rate,
        distillation=distillation,
    )
    last = trainer.run(setting.grow_at)
    before = mean_loss(model, test, size)
    if arm != NONE:
        _bring_back(trainer, arm, grown, heads, calibration, setting, draw)
    after = before if arm == NONE else mean_loss(model, test, size)
    last = trainer.run(setting.steps - setting.grow_at) or last
    active = int(model.active.sum())
    kept, end = flops(model, setting.length) / whole, mean_loss(model, test, size)
    back = 0 if arm == NONE else active - (heads - pruned)
    seconds, hidden = time.perf_counter() - began, last[-1].hidden
    identity = (name, arm, distil, seed, setting)
    return Cell(*identity, pruned, back, active, kept, dense, before, after, end, hidden, seconds)


def _bring_back(
    trainer: PlasticityTrainer, arm: str, count: int, heads: int, calibration: Tensor, setting: Setting, draw: Any
) -> None:
    model = trainer.model
    if arm == REVIVE:
        revive_attention_heads(model, count / heads, calibration, draw)
        repair_model(model, "least_squares", calibration)
        return
    result = grow_attention_heads_gradually(
        model,
        count / heads,
        warmup_steps=setting.gate_steps,
        input_ids=calibration,
        initial_weights=arm,
        generator=draw,
    )
    trainer.grown(result.mask)


def _drawn(text: TextSplits, setting: Setting, draw: torch.Generator) -> Tensor:
    blocks = text.blocks("calibration")
    return blocks[torch.randperm(len(blocks), generator=draw)[: setting.calibration_blocks]]


def _distillation(model: PlasticModel, distil: str) -> Distillation | None:
    return None if distil == NONE else Distillation(dense_teacher(model), 0.5, parts=distilled_parts(distil))


def tables(cells: Sequence[Cell]) -> str:
    """Markdown: growth against not growing, and distillation against none, seed by seed."""
    lines = []
    models = list(dict.fromkeys(cell.model for cell in cells))
    arms = list(dict.fromkeys(cell.arm for cell in cells))
    distils = list(dict.fromkeys(cell.distil for cell in cells))
    for distil in distils:
        head = "| model | arm | active heads | FLOPs kept | just before | just after | end | minus none, paired, 95% |"
        lines += [f"\nDistillation: {distil}\n", head, "|---" * 8 + "|"]
        for model in [*models, "all"]:
            for arm in arms:
                mine = [c for c in cells if c.distil == distil and c.arm == arm and model in (c.model, "all")]
                if mine:
                    lines.append(_row(model, arm, mine, _paired(mine, cells, arm=NONE)))
    lines += ["\n| model | arm | distillation | end | minus without, paired, 95% |", "|---" * 5 + "|"]
    for model in [*models, "all"]:
        for arm in arms:
            for distil in distils:
                mine = [c for c in cells if c.distil == distil and c.arm == arm and model in (c.model, "all")]
                if mine and distil != NONE:
                    ends = spread([c.end for c in mine])
                    lines.append(f"| {model} | {arm} | {distil} | {ends} | {_paired(mine, cells, distil=NONE)} |")
    return "\n".join(lines)


def _row(model: str, arm: str, cells: Sequence[Cell], paired: str) -> str:
    active = "/".join(dict.fromkeys(str(c.active) for c in cells))
    kept = f"{statistics.fmean(c.flops_kept for c in cells):.1%}"
    losses = " | ".join(spread([getattr(c, name) for c in cells]) for name in ("before", "after", "end"))
    return f"| {model} | {arm} | {active} | {kept} | {losses} | {paired} |"


def _paired(mine: Sequence[Cell], cells: Sequence[Cell], **other: str) -> str:
    """Mean difference to the cells that differ in one thing only, with Student's 95% interval."""
    ends = {cell.key: cell.end for cell in cells}
    gaps = []
    for cell in mine:
        key = Cell(**{**{name: getattr(cell, name) for name in Cell.__dataclass_fields__}, **other}).key
        if key in ends and key != cell.key:
            gaps.append(cell.end - ends[key])
    if len(gaps) < 2:
        return "-" if not gaps else f"{gaps[0]:+.4f} (one pair)"
    half = T_95[len(gaps) - 2] * statistics.stdev(gaps) / math.sqrt(len(gaps))
    mean = statistics.fmean(gaps)
    return f"{mean:+.4f} [{mean - half:+.4f}, {mean + half:+.4f}] ({len(gaps)} pairs)"


if __name__ == "__main__":
    run(GrowingBackConfig, main)

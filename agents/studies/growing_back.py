"""Does growing heads back beat not having pruned them? At equal final FLOPs and equal tokens, with and without distillation.

python -m plasticity_env.agents.studies.growing_back

All arms end with the same number of active heads. ``none`` prunes so many and trains. The others prune ``grown_share`` of all
heads more, train a while, bring as many heads back (with the weights that they had, or with new ones) and train on. A seed
fixes calibration text, the order of the training text and new weights, and is shared by all arms. Cells go to ``output`` as
they finish, and a run that was cut goes on.
"""

from __future__ import annotations

import copy
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
from plasticity_env.data.text import load_text
from plasticity_env.growth.grow import grow_attention_heads_gradually
from plasticity_env.growth.initial_weights import find_initial_weights
from plasticity_env.growth.revival import revive_attention_heads
from plasticity_env.model.flops import flops
from plasticity_env.model.loading import load_model
from plasticity_env.model.snapshots import Snapshot
from plasticity_env.repair.whole import repair_model
from plasticity_env.signals.measure import mean_loss
from plasticity_env.strategies.pruning import select_for_pruning
from plasticity_env.training.distillation import Distillation, dense_teacher, distilled_parts
from plasticity_env.training.head_rates import HeadLRManager
from plasticity_env.training.trainer import PlasticityTrainer

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
    grow_at: int = 500
    """steps before heads come back"""
    gate_steps: int = 100
    """steps until the gate of a new head is open, where it opens slowly"""
    learning_rate: float = 1e-4
    """learning rate of AdamW"""
    batch_size: int = 2
    """sequences in a batch"""
    length: int = 64
    """tokens in a sequence"""
    calibration_blocks: int = 32
    """sequences that heads are ranked and repaired on"""
    test_blocks: int = 128
    """sequences of test text"""

    def __post_init__(self) -> None:
        check_counts(
            self, steps=1, grow_at=0, gate_steps=0, batch_size=1, length=2, calibration_blocks=1, test_blocks=1
        )
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
        model, arm, distil, seed, setting: The cell's place.
        pruned, grown, active: Heads that were pruned first, that came back, and that are active at the end.
        flops_kept: Share of the dense model's FLOPs at the end.
        dense, before, after, end: Losses: unpruned, just before and just after heads come back, at
            the end.
        hidden: Relative squared error of the hidden states at the last step, where they are distilled.
        seconds: Seconds by the clock on the wall.
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
    for distil in words(config.distil):
        for seed in range(config.seeds):
            for model in words(config.models):
                arms = [arm for arm in words(config.arms) if (model, arm, distil, seed, setting) not in done]
                if config.report or not arms:
                    continue
                bench = Bench(model, distil, seed, setting)
                for arm in arms:
                    cell = bench.measured(arm)
                    file.append(asdict(cell))
                    print(f"{model} {arm} {distil} seed {seed}: {cell.end:.4f} ({cell.seconds:.0f} s)", flush=True)
    print(tables([cell for cell in file.read() if cell.setting == setting]))


class Bench:
    """One model with one seed and one kind of distillation: what its arms share is computed once.

    Args:
        name: Name of the model.
        distil: What is distilled.
        seed: Fixes calibration text, the order of the training text, and new weights.
        setting: All other settings.
    """

    def __init__(self, name: str, distil: str, seed: int, setting: Setting) -> None:
        self.name, self.distil, self.seed, self.setting = name, distil, seed, setting
        loaded = load_model(name, device="cpu")
        self.model, self.text = loaded.model, load_text("shakespeare", loaded.tokenizer, block_size=setting.length)
        blocks = self.text.blocks("calibration")
        order = torch.randperm(len(blocks), generator=torch.Generator().manual_seed(seed))
        self.calibration = blocks[order[: setting.calibration_blocks]]
        self.heads = self.model.shape[0] * self.model.heads
        self.grown = max(1, round(setting.grown_share * self.heads))
        self.whole, self.loss = flops(self.model, setting.length), self._loss()
        self._dense = self.model.snapshot()
        self._teacher = None if distil == NONE else dense_teacher(self.model)
        self._states: dict[
            int, tuple[Snapshot, dict[str, Any], float]
        ] = {}  # before heads come back, by how many are pruned

    def measured(self, arm: str) -> Cell:
        """Play one arm."""
        began, setting, model = time.perf_counter(), self.setting, self.model
        pruned = round(setting.pruned_share * self.heads) - (self.grown if arm == NONE else 0)
        trainer, before = self._pruned(pruned)
        back = 0
        if arm != NONE:
            generator = torch.Generator().manual_seed(self.seed)
            _bring_back(trainer, arm, self.grown / self.heads, self.calibration, setting, generator)
            back = int(model.active.sum()) - (self.heads - pruned)
        after = before if arm == NONE else self._loss()
        last = trainer.run(setting.steps - setting.grow_at)
        kept, end, active = flops(model, setting.length) / self.whole, self._loss(), int(model.active.sum())
        hidden = last[-1].hidden if last else None
        identity = (self.name, arm, self.distil, self.seed, setting)
        seconds = time.perf_counter() - began
        return Cell(*identity, pruned, back, active, kept, self.loss, before, after, end, hidden, seconds)

    def _pruned(self, count: int) -> tuple[PlasticityTrainer, float]:
        """A trainer of the model just before heads come back, and the loss there."""
        model, setting = self.model, self.setting
        if count in self._states:
            snapshot, state, loss = self._states[count]
            model.restore(snapshot)
            trainer = self._trainer()
            trainer.load_state_dict(copy.deepcopy(state))
            return trainer, loss
        model.restore(self._dense)
        model.prune(select_for_pruning(model, count, "residual_stepwise", input_ids=self.calibration))
        repair_model(model, "least_squares", self.calibration)
        trainer = self._trainer()
        trainer.run(setting.grow_at)
        self._states[count] = model.snapshot(), copy.deepcopy(trainer.state_dict()), self._loss()
        return trainer, self._states[count][2]

    def _trainer(self) -> PlasticityTrainer:
        setting, model = self.setting, self.model
        optimizer = torch.optim.AdamW(model.parameters(), setting.learning_rate, weight_decay=0.01, fused=True)
        distillation = None
        if self._teacher is not None:
            distillation = Distillation(self._teacher, 0.5, parts=distilled_parts(self.distil))
        batches = BlockBatches(self.text.blocks("train"), setting.batch_size, self.seed)
        rates = HeadLRManager(model, optimizer)
        return PlasticityTrainer(model, batches, optimizer=optimizer, head_rates=rates, distillation=distillation)

    def _loss(self) -> float:
        return mean_loss(self.model, self.text.blocks("test")[: self.setting.test_blocks], 16)


def _bring_back(
    trainer: PlasticityTrainer, arm: str, share: float, text: Tensor, setting: Setting, generator: torch.Generator
) -> None:
    model = trainer.model
    if arm == REVIVE:
        revive_attention_heads(model, share, text, generator)
        repair_model(model, "least_squares", text)
        return
    result = grow_attention_heads_gradually(
        model,
        share,
        warmup_steps=setting.gate_steps,
        input_ids=text,
        initial_weights=arm,
        generator=generator,
    )
    trainer.grown(result.mask)


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

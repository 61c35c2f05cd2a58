"""Does growth pay? The same pruned model, the same training, and one thing that differs: what comes back, and how.

Every cell prunes, brings heads back (or not), trains a fixed stream and measures the test split. Cells are appended to a
JSON lines file as they finish, and those that it holds already are skipped, so that a run can be cut and goes on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plasticity_env.cells import CellFile, spread
from plasticity_env.errors import InputError, check_least
from plasticity_env.finetune import FineTuner
from plasticity_env.growth.gradual import grow_attention_heads_gradually
from plasticity_env.growth.initial_weights import INITIAL_WEIGHTS, InitialWeights, Source, TransferWeights
from plasticity_env.growth.revival import revive_attention_heads
from plasticity_env.growth.skip import UNetSkip
from plasticity_env.growth.strategies import GROWTH_STRATEGIES
from plasticity_env.loading import LoadedModel, load_model
from plasticity_env.model import PlasticModel
from plasticity_env.signals import mean_loss
from plasticity_env.strategies import select_for_pruning
from plasticity_env.text import TextSplits, load_text


@dataclass(frozen=True)
class Setting:
    """What all cells of a table share; a cell of another setting is another cell.

    Attributes:
        dataset: Text.
        pruning_level: Share of all heads that are pruned first, lowest Fisher score first, no repair.
        growth_percentage: Share of all heads that comes back.
        steps: Training steps afterwards.
        batch_size: Sequences a step.
        block_size: Tokens a sequence.
        learning_rate: Of AdamW.
        initial_scale, warmup_steps: Of grown heads.
        calibration_blocks: Blocks that scores are measured on.
        test_blocks: Blocks of the test split that the loss is measured on.
    """

    dataset: str = "shakespeare"
    pruning_level: float = 0.5
    growth_percentage: float = 0.2
    steps: int = 100
    batch_size: int = 4
    block_size: int = 128
    learning_rate: float = 3e-4
    initial_scale: float = 0.01
    warmup_steps: int = 30
    calibration_blocks: int = 16
    test_blocks: int = 128

    def __post_init__(self) -> None:
        for name, least in (
            ("steps", 0),
            ("batch_size", 1),
            ("block_size", 2),
            ("warmup_steps", 0),
            ("calibration_blocks", 1),
            ("test_blocks", 1),
        ):
            check_least(name, getattr(self, name), least)
        for name in ("pruning_level", "growth_percentage"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"{name} must lie between 0 and 1, got {getattr(self, name)!r}")
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"learning_rate must be a number above 0, got {self.learning_rate!r}")
        if not 0 < self.initial_scale <= 1:
            raise InputError(f"initial_scale must lie in (0, 1], got {self.initial_scale!r}")

    def check_text(self, text: TextSplits) -> None:
        """Refuse a text with fewer blocks than are asked for.

        Raises:
            InputError: It has.
        """
        for split, wanted in (("calibration", self.calibration_blocks), ("test", self.test_blocks)):
            there = len(text.blocks(split))  # type: ignore[arg-type]
            if wanted > there:
                raise InputError(
                    f"{split}_blocks {wanted} is more than the {there} of {self.dataset!r}: ask for fewer or use a longer text"
                )


class ElsewhereWeights(TransferWeights):
    """Control of the U-Net transfer: saved weights of a pruned head of some other layer, not of the mirrored one.

    The other layers that have a pruned head take turns, from the next one on; with none of them, random weights.
    """

    name = "elsewhere"
    measures = False

    def source(self, model: PlasticModel, layer: int, unit: int) -> Source:
        layers = model.shape[0]
        pruned = ~model.active[:, : model.heads]
        others = [(layer + step) % layers for step in range(1, layers)]
        others = [other for other in others if other != layers - 1 - layer and bool(pruned[other].any())]
        if not others:
            return Source("random")
        other = others[len(self.sources) % len(others)]
        columns = pruned[other].nonzero().flatten()
        return Source("pruned", other, int(columns[((columns - unit) % model.heads).argmin()]))


@dataclass(frozen=True)
class Arm:
    """What is done to the pruned model before it trains.

    Attributes:
        name: In tables.
        strategy, initial: Of growth; None for arms that grow nothing.
        revive: Bring the same number of heads back with their saved weights instead, largest -dL/dgate at gate 0 first.
        skip: Add U-Net skips.
        prune: False for the dense model under the same training.
    """

    name: str
    strategy: str | None = None
    initial: str | type[InitialWeights] | None = None
    revive: bool = False
    skip: bool = False
    prune: bool = True


BASELINE = "no growth"
ARMS: tuple[Arm, ...] = (
    Arm("dense", prune=False),
    Arm(BASELINE),
    Arm("no growth, skip", skip=True),
    Arm("revive", revive=True),
    *(Arm(f"{s}, {i}", s, i) for s in GROWTH_STRATEGIES for i in INITIAL_WEIGHTS),
    Arm("gradient_sensitivity, elsewhere", "gradient_sensitivity", ElsewhereWeights),
    Arm("gradient_sensitivity, transfer, skip", "gradient_sensitivity", "transfer", skip=True),
)


@dataclass(frozen=True)
class Cell:
    """One arm on one model with one seed.

    Attributes:
        model, arm, seed: Which.
        setting: See `Setting`.
        heads: (layer, head) that came back.
        edited_loss: Test loss in nats per token just after heads came back, or after pruning where none did.
        final_loss: After training.
        gates: Of the skips after training.
    """

    model: str
    arm: str
    seed: int
    setting: Setting
    heads: list[tuple[int, int]]
    edited_loss: float
    final_loss: float
    gates: list[float]


def find_arms(names: Iterable[str]) -> list[Arm]:
    """The arms whose name contains one of some words; all arms for no word.

    Raises:
        InputError: A word that is in no arm's name.
    """
    words = list(names)
    for word in words:
        if not any(word in arm.name for arm in ARMS):
            raise InputError(f"no arm is named like {word!r}: arms are {'; '.join(arm.name for arm in ARMS)}")
    return [arm for arm in ARMS if not words or any(word in arm.name for word in words)]


def run_ablation(
    models: Iterable[str], seeds: int, setting: Setting, path: Path, arms: Iterable[Arm] = ARMS
) -> Iterator[tuple[Cell, bool]]:
    """Run all cells that a file does not hold yet, and append each as it finishes.

    Args:
        models: Names for `load_model`.
        seeds: How many; a seed fixes calibration blocks, training order, random choices and new weights, and is shared by
            all arms.
        setting: What all cells share.
        path: JSON lines.
        arms: Which arms.

    Yields:
        Each cell, and whether it was there already.

    Raises:
        InputError: No seeds, or a setting that does not fit a model or its text.
    """
    if seeds < 1:
        raise InputError(f"seeds must be at least 1, got {seeds}")
    file = _file(path)
    done = {(cell.model, cell.arm, cell.seed): cell for cell in file.read() if cell.setting == setting}
    arms = list(arms)
    for name in models:
        loaded = load_model(name)
        text = load_text(setting.dataset, loaded.tokenizer, block_size=setting.block_size)
        setting.check_text(text)
        for seed in range(seeds):
            for arm in arms:
                known = done.get((name, arm.name, seed))
                if known is not None:
                    yield known, True
                    continue
                cell = run_cell(loaded, text, arm, seed, setting)
                file.append(asdict(cell))
                yield cell, False


def run_cell(loaded: LoadedModel, text: TextSplits, arm: Arm, seed: int, setting: Setting) -> Cell:
    """Prune, bring back, train, measure; the model comes out as it went in.

    Args:
        loaded: Dense.
        text: Its text.
        arm: What differs.
        seed: See `run_ablation`.
        setting: What does not.
    """
    model, random = loaded.model, torch.Generator().manual_seed(seed)
    dense = model.snapshot()
    chosen = torch.randperm(len(text.blocks("calibration")), generator=random)[: setting.calibration_blocks]
    calibration, train = text.blocks("calibration")[chosen], text.blocks("train")
    order = torch.randint(len(train), (setting.steps, setting.batch_size), generator=random)
    test = text.blocks("test")[: setting.test_blocks]
    skip = None
    try:
        if arm.prune:
            count = round(setting.pruning_level * model.shape[0] * model.heads)
            model.prune(select_for_pruning(model, count, "fisher", input_ids=calibration))
        heads = _bring_back(model, arm, calibration, setting, random)
        skip = UNetSkip(model) if arm.skip else None
        edited_loss = mean_loss(model, test)
        tuner = FineTuner(model, train, order, setting.learning_rate)
        if skip is not None:
            tuner.optimizer.add_param_group({"params": skip.parameters(), "weight_decay": 0.0})
        tuner.run(setting.steps)
        gates = [] if skip is None else skip.gates.tolist()
        return Cell(loaded.name, arm.name, seed, setting, heads, edited_loss, mean_loss(model, test), gates)
    finally:
        if skip is not None:
            skip.remove()
        model.restore(dense)


def _bring_back(
    model: PlasticModel, arm: Arm, calibration: Tensor, setting: Setting, random: torch.Generator
) -> list[tuple[int, int]]:
    if arm.revive:
        mask = revive_attention_heads(model, setting.growth_percentage, calibration, random)
        return [(layer, head) for layer, head in mask.nonzero().tolist()]
    if arm.strategy is None or arm.initial is None:
        return []
    return grow_attention_heads_gradually(
        model,
        setting.growth_percentage,
        arm.strategy,
        setting.initial_scale,
        setting.warmup_steps,
        input_ids=calibration,
        initial_weights=arm.initial,
        generator=random,
    ).added_heads


def read_cells(path: Path) -> list[Cell]:
    """The cells in a JSON lines file; none when there is no file.

    Raises:
        InputError: A line is no cell.
    """
    return _file(path).read()


def _file(path: Path) -> CellFile[Cell]:
    return CellFile(path, _parse, "this ablation")


def _parse(row: dict[str, Any]) -> Cell:
    heads = [(layer, head) for layer, head in row["heads"]]
    return Cell(**{**row, "setting": Setting(**row["setting"]), "heads": heads})


def table(cells: Iterable[Cell]) -> str:
    """Cells of one setting as Markdown tables, one a model: losses, and what each arm gains over no growth, seed by seed."""
    by_model: dict[str, list[Cell]] = {}
    for cell in cells:
        by_model.setdefault(cell.model, []).append(cell)
    return "\n\n".join(_table(name, own) for name, own in by_model.items())


def _table(name: str, cells: list[Cell]) -> str:
    steps = cells[0].setting.steps
    baseline = {cell.seed: cell.final_loss for cell in cells if cell.arm == BASELINE}
    lines = [
        f"| {name} | just after the edit | after {steps} steps | minus no growth, seed by seed |",
        "|---|---|---|---|",
    ]
    for arm in ARMS:
        own = [cell for cell in cells if cell.arm == arm.name]
        if not own:
            continue
        gains = [cell.final_loss - baseline[cell.seed] for cell in own if cell.seed in baseline]
        gain = spread(gains, "+.4f") if gains and arm.name != BASELINE else "-"
        edited, final = spread([c.edited_loss for c in own]), spread([c.final_loss for c in own])
        short = f" ({len(own)} of {len(baseline)} seeds)" if len(own) < len(baseline) else ""
        lines.append(f"| {arm.name}{short} | {edited} | {final} | {gain} |")
    return "\n".join(lines)

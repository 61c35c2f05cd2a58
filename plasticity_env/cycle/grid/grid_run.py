"""A grid over pruning and growth: the same pruned model, the same training, and only what comes back differs.

Every seed has a control arm, the dense model under the same training; every level has an arm that grows nothing. The pruned
model of a seed, level and repair is made once and is where all its arms start. Cells are appended to a JSON lines file as
they finish, and those that it holds already are skipped, so that a run can be cut and goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from plasticity_env.common.at_work import at_work_on
from plasticity_env.common.errors import InputError
from plasticity_env.common.jsonl_table import CellFile
from plasticity_env.cycle.grid.grid_plan import NONE, REVIVE, GridArm, GridSetting
from plasticity_env.data.documents import EMBEDDED
from plasticity_env.data.text import TextSplits
from plasticity_env.envs.shared_arrays import PackedModel, pack
from plasticity_env.growth.grow import grow_attention_heads_gradually
from plasticity_env.growth.revival import revive_attention_heads
from plasticity_env.model.flops import flop_table
from plasticity_env.model.loading import LoadedModel, check_positions
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.model.snapshots import Snapshot
from plasticity_env.repair.whole import repair_model
from plasticity_env.signals.measure import mean_loss
from plasticity_env.strategies.pruning import select_for_pruning
from plasticity_env.training.head_rates import HeadLRManager
from plasticity_env.training.trainer import PlasticityTrainer


class Losses(NamedTuple):
    """Losses of one cycle, nats per token of the test split: after pruning, after heads came back, after training."""

    pruned: float
    edited: float
    trained: float


@dataclass(frozen=True)
class GridCell:
    """One arm on one seed.

    Attributes:
        setting, arm, seed: The cell's place in the grid.
        slots, active_heads: Head slots of the model, and how many are active at the end.
        came_back: Heads that came back in each cycle.
        flops_kept: Forward FLOPs at the end as a share of the dense model's.
        cycles: Losses of each.
        seconds: Seconds that it took.
    """

    setting: GridSetting
    arm: GridArm
    seed: int
    slots: int
    active_heads: int
    came_back: list[int]
    flops_kept: float
    cycles: list[Losses]
    seconds: float

    @property
    def pruned_loss(self) -> float:
        """Loss after the first pruning (and repair), before anything trained; for the control arm that of the dense model."""
        return self.cycles[0].pruned

    @property
    def final_loss(self) -> float:
        """Loss at the end."""
        return self.cycles[-1].trained


class Place(NamedTuple):
    """Where in a grid a cell stands, and what is needed to run it by itself."""

    setting: GridSetting
    arm: GridArm
    seed: int
    device: str


class Mapper(Protocol):
    """Calls ``function(shared, item)`` on every item, anywhere and in any order, and yields (item, result) as they come."""

    def __call__(
        self, function: Callable[[PackedModel, Place], GridCell], items: list[Place], *, shared: PackedModel
    ) -> Iterator[tuple[Place, GridCell]]: ...


def run_grid(
    loaded: LoadedModel,
    text: TextSplits,
    setting: GridSetting,
    arms: Iterable[GridArm],
    seeds: int,
    path: Path,
    mapper: Mapper | None = None,
) -> Iterator[tuple[GridCell, bool]]:
    """Run the cells that a file does not hold yet, and append each as it finishes.

    Args:
        loaded: The model, dense; left so.
        text: Its text, packed at the setting's length.
        setting: What all cells share.
        arms: Arms in the order of `plan`: arms of one pruned model beside each other.
        seeds: How many; a seed fixes calibration blocks, training order, random choices and new weights, and is shared by
            all arms.
        path: JSON lines file of cells.
        mapper: Runs the missing cells elsewhere; this process only writes. None runs them here, one after another.

    Yields:
        Each cell, and whether it was there already.

    Raises:
        InputError: No seeds, a level that prunes nothing or everything, a text too short, or a file of something else or of
            another process that is at work.
    """
    arms = list(arms)
    check_grid(loaded, text, setting, arms, seeds)
    with at_work_on(path):
        yield from _missing(loaded, text, setting, arms, seeds, _file(path), mapper)


def _missing(
    loaded: LoadedModel,
    text: TextSplits,
    setting: GridSetting,
    arms: list[GridArm],
    seeds: int,
    file: CellFile[GridCell],
    mapper: Mapper | None,
) -> Iterator[tuple[GridCell, bool]]:
    known = {(cell.arm, cell.seed): cell for cell in file.read() if cell.setting == setting}
    if mapper is not None:
        yield from ((known[arm, seed], True) for seed in range(seeds) for arm in arms if (arm, seed) in known)
        device = str(loaded.model.device)
        left = [Place(setting, arm, s, device) for s in range(seeds) for arm in arms if (arm, s) not in known]
        shared = pack(loaded, text, ("calibration", "train", "test"))
        for _, cell in mapper(run_cell, left, shared=shared) if left else ():
            file.append(_plain(cell))
            yield cell, False
        return
    for seed in range(seeds):
        bench = _Bench(loaded, text, setting, seed)
        try:
            for arm in arms:
                if (arm, seed) in known:
                    yield known[arm, seed], True
                    continue
                cell = bench.run(arm)
                file.append(_plain(cell))
                yield cell, False
        finally:
            loaded.model.restore(bench.dense)


def check_grid(
    loaded: LoadedModel, text: TextSplits, setting: GridSetting, arms: Iterable[GridArm], seeds: int
) -> None:
    """Refuse what `run_grid` cannot run.

    Raises:
        InputError: No seeds, a level that prunes nothing or everything, a text too short, or blocks longer than the model's
            positions.
    """
    if seeds < 1:
        raise InputError(f"seeds must be at least 1, got {seeds}")
    check_positions(loaded, setting.max_length)
    slots = loaded.model.shape[0] * loaded.model.heads
    for arm in arms:
        if arm.level > 0 and not 0 < round(arm.level * slots) < slots:
            raise InputError(
                f"level {arm.level:g} prunes {round(arm.level * slots)} of the {slots} heads of {loaded.name!r}: "
                "at least one must go and one must stay"
            )
    for split, count in (("calibration", setting.calibration_blocks), ("test", setting.test_blocks)):
        if count > len(text.blocks(split)):  # type: ignore[arg-type]
            raise InputError(f"{split}_blocks must be at most {len(text.blocks(split))} with this text, got {count}")  # type: ignore[arg-type]


class _Bench:
    """One seed: its draws, the dense model, and the pruned model that was asked for last."""

    def __init__(self, loaded: LoadedModel, text: TextSplits, setting: GridSetting, seed: int) -> None:
        self.loaded, self.text, self.setting, self.seed = loaded, text, setting, seed
        self.model: PlasticModel = loaded.model
        self.dense: Snapshot = self.model.snapshot()
        random = torch.Generator().manual_seed(seed)
        torch.randperm(len(text.blocks("calibration")), generator=random)  # as always: what follows is drawn as before
        self.calibration_ids = text.drawn("calibration", setting.calibration_blocks, seed)
        train = text.blocks("train")
        order = torch.randint(len(train), (setting.training_steps, setting.batch_size), generator=random)
        self._batches = lambda step: train[order[step]]
        self._base: tuple[tuple[float, str], Snapshot, float] | None = None

    def run(self, arm: GridArm) -> GridCell:
        """Prune, bring back, train, measure, as often as the arm says."""
        started, setting, model = time.perf_counter(), self.setting, self.model
        snapshot, pruned = self._pruned(arm)
        model.restore(snapshot)
        rates = None
        if arm.multiplier != 1:
            rates = HeadLRManager(model, new_head_multiplier=arm.multiplier, decay_steps=setting.rate_decay_steps)
        trainer = PlasticityTrainer(model, self._batches, learning_rate=setting.learning_rate, head_rates=rates)
        random = torch.Generator().manual_seed(self.seed)
        losses, came_back = [], []
        for cycle in range(arm.cycles):
            if cycle:
                self._prune(arm, random)
                pruned = self._test_loss()
            back = self._bring_back(arm, random)
            came_back.append(int(back.sum()))
            if came_back[-1]:
                trainer.grown(back)
            edited = self._test_loss() if came_back[-1] else pruned
            trainer.run(round(setting.training_steps * (cycle + 1) / arm.cycles) - trainer.taken)
            losses.append(Losses(pruned, edited, self._test_loss()))
        active, table = model.active, flop_table(model, setting.max_length)
        kept = table.total(active) / table.total(torch.ones_like(active))
        heads = active[:, : model.heads]
        seconds = time.perf_counter() - started
        return GridCell(setting, arm, self.seed, heads.numel(), int(heads.sum()), came_back, kept, losses, seconds)

    def _pruned(self, arm: GridArm) -> tuple[Snapshot, float]:
        """The model that an arm starts from, and its test loss."""
        key = (arm.level, arm.repair)
        if self._base is None or self._base[0] != key:
            self.model.restore(self.dense)
            if arm.level > 0:
                self._prune(arm, torch.Generator().manual_seed(self.seed))
            self._base = key, self.model.snapshot(), self._test_loss()
        return self._base[1:]

    def _prune(self, arm: GridArm, random: torch.Generator) -> None:
        """Prune down to the level what matters least as the model is now, and repair."""
        model = self.model
        active = model.active[:, : model.heads]
        count = int(active.sum()) - (active.numel() - round(arm.level * active.numel()))
        ids = self.calibration_ids
        model.prune(select_for_pruning(model, count, self.setting.pruning_strategy, input_ids=ids, generator=random))
        repair_model(model, arm.repair, ids, self.setting.batch_size)

    def _bring_back(self, arm: GridArm, random: torch.Generator) -> Tensor:
        """Grow or revive; returns the (L, U) mask of what came back."""
        if arm.growth == NONE:
            return torch.zeros_like(self.model.active)
        if arm.growth == REVIVE:
            mask = revive_attention_heads(self.model, arm.percentage, self.calibration_ids, random)
            repair_model(self.model, arm.repair, self.calibration_ids, self.setting.batch_size)
            return mask
        return grow_attention_heads_gradually(
            self.model,
            arm.percentage,
            arm.growth,
            self.setting.initial_scale,
            arm.warmup_steps,
            input_ids=self.calibration_ids,
            initial_weights=self.setting.initial_weights,
            generator=random,
        ).mask

    def _test_loss(self) -> float:
        return mean_loss(self.model, self.text.some("test", self.setting.test_blocks))


_bench: tuple[tuple[str, GridSetting, int], _Bench] | None = None  # of this process: what its last cell was run on


def run_cell(packed: PackedModel, place: Place) -> GridCell:
    """Run one cell on a packed model; the next cell of the same seed finds model (and pruned model) in place.

    Args:
        packed: A packed model with the splits "calibration", "train" and "test".
        place: The cell's place in the grid.
    """
    global _bench
    key = (packed.key, place.setting, place.seed)
    if _bench is None or _bench[0] != key:
        _bench = None
        _bench = key, _Bench(*packed.open(writable=True, device=place.device), place.setting, place.seed)
    return _bench[1].run(place.arm)


def read_cells(path: Path) -> list[GridCell]:
    """The cells in a JSON lines file; none when there is no file.

    Raises:
        InputError: A line is no cell.
    """
    return _file(path).read()


def _file(path: Path) -> CellFile[GridCell]:
    return CellFile(path, _parse, "this grid")


def _plain(cell: GridCell) -> dict[str, Any]:
    return asdict(replace(cell, cycles=[])) | {"cycles": [losses._asdict() for losses in cell.cycles]}


def _parse(row: dict[str, Any]) -> GridCell:
    before = {} if row["setting"]["dataset"] in EMBEDDED else {"text_split": "leading"}  # of cells that do not say
    parts = {"setting": GridSetting(**before | row["setting"]), "arm": GridArm(**row["arm"])}
    return GridCell(**{**row, **parts, "cycles": [Losses(**losses) for losses in row["cycles"]]})

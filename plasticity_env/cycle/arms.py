"""The two arms of an experiment: the model that is pruned, and the control that trains the same steps unpruned."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import torch

from plasticity_env.common.errors import InputError
from plasticity_env.cycle.record import RunRecord
from plasticity_env.cycle.run_rows import CONTROL, StepRow
from plasticity_env.cycle.run_settings import ExperimentSettings
from plasticity_env.data.text import Split, TextSplits
from plasticity_env.model.applied_repairs import OutputRepair
from plasticity_env.model.flops import flops
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.signals.measure import HeadSignals, mean_loss, measure
from plasticity_env.signals.residual import crossfit_projectors
from plasticity_env.training import (
    BlockBatches,
    HeadLRManager,
    PlasticityTrainer,
    TrainStep,
    dense_teacher,
    get_plasticity_optimizer,
)
from plasticity_env.training.distillation import Distillation

SPLITS_SHOWN: tuple[Split, ...] = ("reward", "test")


class Arm:
    """A model in training, with what is measured of it; equal states are measured once.

    Args:
        model: Trained in place.
        text: Splits of the text.
        settings: Rates, batches, how much text.
        teacher: Teacher to distil from in training, or None.
    """

    def __init__(
        self, model: PlasticModel, text: TextSplits, settings: ExperimentSettings, teacher: PlasticModel | None = None
    ) -> None:
        self.model, self.text, self.settings = model, text, settings
        optimizer = get_plasticity_optimizer(model, settings.learning_rate)
        rates = HeadLRManager(
            model,
            optimizer,
            new_head_multiplier=settings.new_head_lr_multiplier,
            warmup_steps=settings.lr_warmup_steps,
            decay_steps=settings.lr_decay_steps,
        )
        self.trainer = PlasticityTrainer(
            model,
            BlockBatches(text.blocks("train"), settings.batch_size, settings.seed),
            optimizer=optimizer,
            head_rates=rates,
            accumulation=settings.accumulation,
            mixed_precision=settings.mixed_precision,
        )
        self.distil_from(teacher)
        self._state: Hashable = None  # in which what is known was measured
        self._repairs: list[OutputRepair] = []
        self._known: dict[Hashable, Any] = {}

    def distil_from(self, teacher: PlasticModel | None) -> None:
        """Also learn from a teacher, as much as the settings say; None: from the text alone."""
        weight, parts = self.settings.distillation, tuple(self.settings.distil.split("+"))
        self.trainer.distillation = (
            None if teacher is None or not weight else Distillation(teacher, weight, parts=parts)
        )

    def teacher(self) -> PlasticModel | None:
        """A frozen copy of this model, unpruned, where the settings want to distil from one."""
        return dense_teacher(self.model) if self.settings.distillation else None

    @property
    def flops(self) -> float:
        """Forward FLOPs per token, pruned heads taken as removed."""
        return flops(self.model, self.settings.max_length)

    def train(self, steps: int, on_step: Callable[[TrainStep], None]) -> None:
        """Take optimizer steps."""
        self.trainer.run(steps, on_step)

    def loss(self, split: Split) -> float:
        """Mean loss on some blocks of a split, nats per token."""
        count = self.settings.reward_blocks if split == "reward" else self.settings.test_blocks
        blocks = self.text.some(split, count)
        loss: float = self._once(split, lambda: mean_loss(self.model, blocks, self.settings.batch_size))
        return loss

    def calibration(self) -> torch.Tensor:
        """(B, T) calibration text that is measured and repaired on."""
        return self.text.some("calibration", self.settings.analysis_steps * self.settings.batch_size)

    def signals(self, obs: bool = False, residual: bool = False, names: tuple[str, ...] = ()) -> HeadSignals:
        """Measure on calibration text; ``names`` are registered signals beside the standard ones."""
        what = ("signals", obs, residual, names)
        signals: HeadSignals = self._once(what, lambda: self._measure(obs, residual, names))
        return signals

    def _measure(self, obs: bool, residual: bool, names: tuple[str, ...]) -> HeadSignals:
        ids, batch_size = self.calibration(), self.settings.batch_size
        projectors, crossfit = crossfit_projectors(self.model, ids, batch_size) if residual else (None, None)
        return measure(
            self.model,
            ids,
            batch_size=batch_size,
            obs=obs,
            projectors=projectors,
            crossfit=crossfit,
            signals=names,
        )

    def _once(self, what: Hashable, compute: Callable[[], Any]) -> Any:
        model, repairs = self.model, list(self.model.repairs.values())
        state = (model.weight_version, model.gates.numpy().tobytes(), len(repairs))
        same = self._state == state and all(a is b for a, b in zip(self._repairs, repairs, strict=True))
        if not same:
            self._state, self._repairs, self._known = state, repairs, {}
        if what not in self._known:
            self._known[what] = compute()
        return self._known[what]


class ControlArm(ABC):
    """The same training without pruning; `losses` and `train` are all that is asked of it."""

    @abstractmethod
    def train(self, steps: int, on_step: Callable[[TrainStep], None]) -> None:
        """Take the same steps as the other arm."""

    @abstractmethod
    def loss(self, split: Split) -> float:
        """Mean loss on some blocks of a split, nats per token."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""


class TrainedControl(ControlArm):
    """A copy of the arm as it is when the warm-up ends, optimizer moments included, that is never pruned."""

    def __init__(self, arm: Arm, teacher: PlasticModel | None = None) -> None:
        model = dense_teacher(arm.model).requires_grad_(True)
        self.arm = Arm(model, arm.text, arm.settings, teacher)
        self.arm.trainer.load_state_dict(copy.deepcopy(arm.trainer.state_dict()))

    def train(self, steps: int, on_step: Callable[[TrainStep], None]) -> None:
        self.arm.train(steps, on_step)

    def loss(self, split: Split) -> float:
        return self.arm.loss(split)

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.arm.model.state_dict(), "trainer": self.arm.trainer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.arm.model.load_state_dict(state["model"])
        self.arm.trainer.load_state_dict(state["trainer"])


class RecordedControl(ControlArm):
    """The control arm of a finished run with the same training, read from its record instead of trained again.

    Args:
        folder: Folder of that run.

    Raises:
        InputError: No run there.
    """

    def __init__(self, folder: Path) -> None:
        record = RunRecord.read(folder)
        self._folder = folder
        self._steps: dict[int, StepRow] = {row.step: row for row in record.steps if row.arm == CONTROL}
        self._losses = {(row.step, row.split): row.loss for row in record.evaluations if row.arm == CONTROL}
        warm = [row.last_step for row in record.phases if row.phase == "warmup"]
        self._step = warm[0] if warm else 0

    def train(self, steps: int, on_step: Callable[[TrainStep], None]) -> None:
        for _ in range(steps):
            self._step += 1
            row = self._steps.get(self._step)
            if row is None:
                raise self._missing(f"step {self._step}")
            on_step(TrainStep(row.step, row.loss, row.grad_norm, row.learning_rate))

    def loss(self, split: Split) -> float:
        loss = self._losses.get((self._step, split))
        if loss is None:
            raise self._missing(f"an evaluation at step {self._step}")
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"step": self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._step = state["step"]

    def _missing(self, what: str) -> InputError:
        return InputError(
            f"the control arm of {str(self._folder)!r} lacks {what}: it ran with other settings, or was interrupted"
        )

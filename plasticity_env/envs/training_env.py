"""Training between decisions: a fixed stream of text, its optimizer, and the control arm that is trained without edits."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.data.text import TextSplits
from plasticity_env.envs.edits import EditMasks
from plasticity_env.envs.episode import EpisodeState
from plasticity_env.envs.measurement import Indices
from plasticity_env.envs.settings import Settings
from plasticity_env.envs.workbench import Workbench
from plasticity_env.growth.initial_weights import find_initial_weights, plant, starting
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.model.snapshots import Snapshot
from plasticity_env.training.stream import FineTuner, control_arm

MOVED = (
    "the model's weights were changed by somebody else (an optimizer of your own, load_state_dict, another environment on the "
    "same model), and an environment that trains rests on its own: make it anew, with a model of its own from load_model()"
)


class Training:
    """What an environment with ``train_steps`` > 0 does to its model between decisions.

    Args:
        settings: Settings of the environment.
        workbench: Holds the model, dense at the moment.

    Raises:
        InputError: The initial weights of grown heads do not fit the architecture.
    """

    def __init__(self, settings: Settings, workbench: Workbench) -> None:
        self._settings, self._bench = settings, workbench
        if settings.train_steps > 0:
            find_initial_weights(settings.growth_init).check(workbench.model)
        self._dense: Snapshot = workbench.model.snapshot(weights=settings.train_steps > 0)
        self._arms: dict[int, tuple[TextSplits, Indices, tuple[float, ...]]] = {}  # by stream; forks share them
        self._tuner: FineTuner | None = None

    def fork(self, workbench: Workbench) -> Training:
        """The same streams and control arms for another model; its optimizer comes with `set_state`."""
        clone = copy.copy(self)
        clone._bench, clone._tuner = workbench, None
        return clone

    def start(self, stream: int | None, reward: Indices) -> tuple[float, ...] | None:
        """Make the model dense again and begin a stream.

        Args:
            stream: Number of the stream, or None for a frozen model.
            reward: Blocks on which the control arm is evaluated.

        Returns:
            Losses of the control arm after each decision's training, or None for a frozen model.
        """
        moved = self._bench.weights_moved()
        if stream is None:
            if moved:
                self._bench.accept_weights()
                self._dense = self._bench.model.snapshot(weights=False)
            self._bench.model.restore(self._dense)
            return None
        if moved:
            raise InputError(MOVED)
        self._bench.model.restore(self._dense)
        losses = self._control_arm(stream, reward)
        self._tuner = self._new_tuner(stream)
        self._bench.own_change()
        return losses

    def refuse_moved_weights(self) -> None:
        """Refuse to go on with an episode whose model somebody else changed since its last decision.

        Raises:
            InputError: If somebody did.
        """
        if self._bench.weights_moved():
            trains = self._settings.train_steps > 0
            raise InputError(
                MOVED if trains else "the model's weights changed since reset(): call reset() to go on with them"
            )

    def go_on(self, stream: int) -> None:
        """Begin a stream of the workbench's present text with the model and the optimizer's moments as they are."""
        assert self._tuner is not None
        moments = self._tuner.optimizer.state_dict()
        self._tuner = self._new_tuner(stream)
        self._tuner.optimizer.load_state_dict(moments)

    def edit_and_train(self, state: EpisodeState, masks: EditMasks) -> None:
        """Carry out a decision on the model, repair it, and take the steps of training that belong to it."""
        assert self._tuner is not None
        assert state.stream is not None
        model = self._bench.model
        # a model whose active heads all change places never stands without any: revived ones come first, and where only grown
        # ones take over, one head stays until they are there
        model.revive(masks.revive)
        late = _last_head(model, masks.prune)
        model.prune(masks.prune & ~late)
        if bool(masks.grow.any()):
            generator = torch.Generator().manual_seed(1_000_003 * state.stream + state.step)
            kind, text = (
                find_initial_weights(self._settings.growth_init),
                self._bench.blocks("calibration", state.calibration),
            )
            initial = starting(kind, model, state.measurement.signals.fisher, text, self._settings.batch_size)
            plant(model, masks.grow, initial, 0.01, self._settings.grow_warmup_steps, generator)
            model.forget_moments(masks.grow, self._tuner.optimizer)
        model.prune(late)
        self._bench.install(model.active, state.fitted)
        self._tuner.run(self._settings.train_steps)
        self._bench.own_change()

    def get_state(self) -> dict[str, Any]:
        """Weights, optimizer and place in the stream, as far as they can change."""
        trains, tuner = self._settings.train_steps > 0, self._tuner
        return {
            "model": self._bench.model.snapshot(weights=True) if trains else None,
            "optimizer": copy.deepcopy(tuner.optimizer.state_dict()) if tuner else None,
            "taken": tuner.taken if tuner else 0,
        }

    def set_state(self, state: dict[str, Any], stream: int | None) -> None:
        """Come back to what `get_state` returned, on a stream."""
        if state["model"] is not None:
            self._bench.model.restore(state["model"])
        if state["optimizer"] is not None:
            assert stream is not None
            self._tuner = self._new_tuner(stream)
            self._tuner.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
            self._tuner.taken = state["taken"]
        self._bench.own_change()

    def _control_arm(self, stream: int, reward: Indices) -> tuple[float, ...]:
        known = self._arms.get(stream)
        if known is None or known[0] is not self._bench.text or known[1] != reward:
            ids = self._bench.blocks("reward", reward)
            tuner, settings = self._new_tuner(stream), self._settings
            losses = control_arm(tuner, ids, settings.horizon, settings.train_steps, settings.batch_size)
            known = self._arms[stream] = (self._bench.text, reward, tuple(losses))
            self._bench.model.restore(self._dense)
        return known[2]

    def _new_tuner(self, stream: int) -> FineTuner:
        blocks = self._bench.text.blocks("train")
        random = np.random.default_rng([stream, 2])
        steps = self._settings.horizon * self._settings.train_steps
        order = torch.from_numpy(random.integers(len(blocks), size=(steps, self._settings.batch_size)))
        return FineTuner(self._bench.model, blocks, order, self._settings.learning_rate)


def _last_head(model: PlasticModel, prune: Tensor) -> Tensor:
    """(L, U) boolean: one of the heads to prune where they are all that there are; else none."""
    late = torch.zeros_like(prune)
    if not bool((model.active & ~prune)[:, : model.heads].any()):
        layer, head = (model.active & prune)[:, : model.heads].nonzero()[0].tolist()
        late[layer, head] = True
    return late

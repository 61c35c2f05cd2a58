"""What both environments share: episodes, measuring, rewards, state. How an action is read is the subclass's."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from plasticity_env.common.child_processes import daemon_ends_with_parent
from plasticity_env.common.errors import InputError, check_least, unknown
from plasticity_env.common.values import brief
from plasticity_env.data.text import SPLITS, TextSplits
from plasticity_env.envs.actions import read_mask
from plasticity_env.envs.episode import EpisodeState, draw_episode, read_options
from plasticity_env.envs.make_workbench import make_workbench
from plasticity_env.envs.observation import EnvKind, Observation
from plasticity_env.envs.replay import EpisodeRecord
from plasticity_env.envs.rewards import Terms
from plasticity_env.envs.settings import Settings, settings_for
from plasticity_env.envs.task import Task, View
from plasticity_env.envs.training_env import Training
from plasticity_env.envs.workbench import Workbench
from plasticity_env.model.contexts import in_plain_mode
from plasticity_env.model.loading import LoadedModel
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.plots.rendering import ansi, picture, show


class PlasticityEnv(gym.Env[Observation, Any]):
    """Common ground of ``plasticity/Heads-v1``, ``HeadEdit-v1``, ``HeadRank-v1`` and ``Levels-v0``, whose pages say more.

    Args:
        render_mode: None, "ansi", "rgb_array" or "human".
        loaded: A model to work on instead of ``model_name`` (it becomes this environment's own).
        text: Text to use instead of ``dataset``.
        workbench: One of another environment that measures alike (model, text, repair, signals), to share its memo.
        version: Version of the id, to which columns and bounds of observations belong.
        **settings: See `plasticity_env.envs.settings.Settings`.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array", "human"], "render_fps": 2}  # noqa: RUF012
    kind: ClassVar[EnvKind]
    settings_type: ClassVar[type[Settings]] = Settings
    task_type: ClassVar[type[Task]] = Task
    default_share: ClassVar[tuple[float, float] | None] = None  # of units to prune, where the task has such a target

    def __init__(
        self,
        render_mode: str | None = None,
        loaded: LoadedModel | None = None,
        text: TextSplits | None = None,
        workbench: Workbench | None = None,
        version: int = 0,
        **settings: Any,
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise InputError(f"unknown render_mode {render_mode!r}: use 'ansi', 'rgb_array' or 'human'")
        daemon_ends_with_parent()  # AsyncVectorEnv and SubprocVecEnv do not see to it themselves
        self.render_mode = render_mode
        self.settings = settings_for(self.default_share, settings, version, self.settings_type)
        if workbench is not None and not isinstance(workbench, Workbench):
            raise InputError(f"workbench must be that of another environment, got {brief(workbench)}")
        self.workbench: Workbench = workbench or make_workbench(self.settings, loaded, text)
        self.settings = self.settings.settled(self.workbench.model.neuron_order)
        self.version, self._task = version, self.task_type(self.settings, self.workbench, version)
        self._task.check_targets(self.settings.pruned_share, self.settings.flop_budget)
        self.head_slots = self._task.slots
        self.action_space = self._action_space(self.head_slots)
        self.observation_space = self._observation_space()
        self._training = Training(self.settings, self.workbench)
        self._state: EpisodeState | None = None
        self._view: View | None = None  # of the state, until the next one
        self._record: EpisodeRecord | None = None

    # -- what a subclass says ------------------------------------------------------------------------------------------

    def _observation_space(self) -> gym.spaces.Space[Any]:
        columns = self._task.columns
        space = columns.flat_space if self.settings.observation == "flat" else columns.space
        return space(self.head_slots, self._action_mask_shape(self.head_slots))

    def _observed(self, view: View) -> Any:
        """What is shown of the present state, in the shape of the observation space."""
        columns = self._task.columns
        shown = {"heads": view.heads[0], "globals": view.globals[0], "action_mask": self._mask()}
        flat = self.settings.observation == "flat"
        return columns.flat(shown) if flat else Observation(self.kind, shown, columns.extra)

    @abstractmethod
    def _action_space(self, heads: int) -> gym.spaces.Space[Any]: ...

    @abstractmethod
    def _action_mask_shape(self, heads: int) -> tuple[int, ...]: ...

    @abstractmethod
    def _action_mask(self, allowed: np.ndarray) -> np.ndarray:
        """int8 mask in the shape of the action space, from (N, 4) allowed edits."""

    @abstractmethod
    def edits_of(self, action: Any) -> tuple[Tensor, bool]:
        """(L, H) edits that an action asks for (0 keep, 1 prune, 2 revive, 3 grow), and whether the agent stops."""

    # -- Gymnasium's interface -------------------------------------------------------------------------------------------

    @in_plain_mode
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode on the dense model.

        Args:
            seed: Seeds the draws of price, budget and blocks.
            options: May fix ``flop_price``, ``flop_budget``, ``pruned_share``, ``calibration``, ``reward`` and ``moments``
                (lists of block numbers) and ``stream``.

        Returns:
            Observation and info.
        """
        super().reset(seed=seed)
        bench = self.workbench
        draw = draw_episode(self.settings, bench.text, self.np_random, read_options(options))
        self._task.check_targets(draw.share, draw.budget)
        active = torch.ones(bench.model.shape, dtype=torch.bool)
        try:
            reference = self._training.start(draw.stream, draw.reward)
            (measurement,) = bench.measure([draw.request(active)])
        except BaseException:
            if draw.stream is not None:
                self._state = None  # the model is no longer that of the episode before
            raise
        state = EpisodeState.start(draw, measurement, reference or (measurement.loss,), bench.model.shape)
        self._record = EpisodeRecord(self.env_id, self.settings.kwargs(), draw.options(), (), ())
        _, observation, info = self._enter(state, 0)
        return observation, info

    @in_plain_mode
    def go_on(
        self,
        text: TextSplits | None = None,
        reference: Sequence[float] | None = None,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, dict[str, Any]]:
        """Start the next episode with the model as the last one left it: weights, optimizer, mask and ages carry over.

        So a model can be followed through stages of training, on one text after another. A target share (HeadRank) is
        reached from the share that is pruned already. Such an episode has no record, since it does not begin dense.

        Args:
            text: What it reads from here on; the present text when None.
            reference: Losses on the reward blocks of the control arm that went through the same stages, before the first and
                after each decision (the last one stands for all that lack); None takes the loss at the start instead, so
                that rewards count what training gains as well.
            seed, options: Seed and options, as `reset` takes them.

        Returns:
            Observation and info.

        Raises:
            InputError: A frozen model, or a text cut into blocks of another length.
        """
        before = self._any_state()
        if before.stream is None:
            raise InputError("go_on() carries a trained model over: make the environment with train_steps above 0")
        bench = self.workbench
        if text is not None:
            bench.read(text)
        super().reset(seed=seed)
        draw = draw_episode(self.settings, bench.text, self.np_random, read_options(options))
        self._task.check_targets(draw.share, draw.budget)
        assert draw.stream is not None
        self._training.go_on(draw.stream)
        (measurement,) = bench.measure([draw.request(before.active)])
        state = EpisodeState.start(draw, measurement, tuple(reference or (measurement.loss,)), bench.model.shape)
        share = self._task.pruned_share(before.active)
        state = replace(state, active=before.active, age=before.age, start_share=share)
        self._record = None
        _, observation, info = self._enter(state, 0)
        return observation, info

    @in_plain_mode
    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Edit, train if asked to, measure, pay.

        Returns:
            Observation, reward in nats, terminated (the agent stopped, or the horizon is over: the time that is left is
            part of the observation, so this end belongs to the task), truncated (never, left to wrappers), info.
        """
        state = self._running_state()
        self._training.refuse_moved_weights()
        edits, stop = self.edits_of(action)
        masks, invalid = self._task.resolve(state, edits, self._seen().allowed[0])
        request = state.request(state.after(masks))
        before = None if state.stream is None else self.get_state()  # a frozen model gets its mask anew each time
        try:
            if state.stream is not None:
                self._training.edit_and_train(state, masks)
            (measurement,) = self.workbench.measure([request])
        except BaseException:
            if before is not None:
                self.set_state(before)
            raise
        state = state.then(masks, measurement, done=stop or state.step + 1 >= self.settings.horizon)
        reward, observation, info = self._enter(state, invalid)
        self._record = None if self._record is None else self._record.then(action, reward)
        return observation, reward, state.done, False, info

    def action_masks(self) -> np.ndarray:
        """Flat boolean mask as sb3-contrib's MaskablePPO wants it, True = allowed."""
        return self._mask().astype(bool).reshape(-1)

    def render(self) -> Any:
        """Draw the heads: text ("ansi"), an (H, W, 3) uint8 array ("rgb_array"), or a window ("human")."""
        if self.render_mode is None:
            gym.logger.warn("render() without a render_mode does nothing: gym.make(..., render_mode='ansi')")
            return None
        state = self._any_state()
        info = self._info(state, self._task.terms(state, float(self._seen().flops[0])), 0)
        edited = (state.age == 0) & (state.step > 0)
        if self.render_mode == "ansi":
            return ansi(self.workbench.name, state.active.numpy(), edited, info)
        fisher = state.measurement.signals.fisher.numpy()
        frame = picture(self.workbench.name, state.active.numpy(), edited, fisher, info)
        if self.render_mode == "rgb_array":
            return frame
        show(self, frame, self.metadata["render_fps"])
        return None

    def close(self) -> None:
        """Close the window of human rendering, if there is one."""
        show(self, None, 0)

    # -- beyond Gymnasium --------------------------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """Everything needed to come back here: episode, random generator, and weights if they can change."""
        return {
            "episode": self._state,
            "record": self._record,
            "text": self.workbench.text,
            "random": copy.deepcopy(self.np_random.bit_generator.state),
            **self._training.get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Come back to what `get_state` of this environment (or of its fork) returned."""
        self._state, self._record, self._view = state["episode"], state["record"], None
        self.np_random.bit_generator.state = copy.deepcopy(state["random"])
        if state["text"] is not self.workbench.text:
            self.workbench.read(state["text"])
        self._training.set_state(state, None if self._state is None else self._state.stream)

    def fork(self) -> PlasticityEnv:
        """An independent copy that goes on from here; while the model is frozen both share its weights and memo."""
        state = self.get_state()
        clone = copy.copy(self)
        clone._np_random = copy.deepcopy(self._np_random)
        if self.settings.train_steps > 0:
            text = self.workbench.text  # never edited: shared
            clone.workbench = copy.deepcopy(self.workbench, {id(text): text})
        clone._training = self._training.fork(clone.workbench)
        clone.set_state(state)
        return clone

    def episode_record(self) -> EpisodeRecord:
        """The episode so far, enough to replay it: see `plasticity_env.validate`."""
        if self._record is None:
            raise InputError("no episode that began dense: call reset() first (one that goes on has no record)")
        return self._record

    def preview(self, action: Any) -> Tensor:
        """(L, H) mask that an action would lead to; nothing is edited and nothing measured."""
        state = self._running_state()
        return state.after(self._task.resolve(state, self.edits_of(action)[0])[0])

    @in_plain_mode
    def evaluate(
        self,
        split: str = "test",
        blocks: int | None = None,
        active: Tensor | None = None,
        text: TextSplits | None = None,
        spread: bool = False,
    ) -> float:
        """Mean loss in nats per token, on text that no observation or reward reads.

        Args:
            split: Name of the split, usually "test".
            blocks: How many blocks; None for all.
            active: (L, H) mask to evaluate, repaired as this episode repairs; the present one when None.
            text: Another text whose split it is; repair still reads this episode's calibration blocks.
            spread: Take the blocks evenly over the split instead of from its start.

        Raises:
            InputError: ``blocks`` below 1, an unknown split, or a mask of another shape.
        """
        if blocks is not None:
            check_least("blocks", blocks, 1)
        if not isinstance(split, str) or split not in SPLITS:
            raise unknown("split", split, SPLITS)
        state = self._any_state()
        self.workbench.model.notice_changes()
        mask = state.active if active is None else read_mask(active, self.workbench.model.shape)
        model = self.workbench.model
        trains = self.settings.train_steps > 0  # a frozen model gets its mask and repair anew whenever it is used
        before = model.snapshot(weights=False) if trains else None
        try:
            return self.workbench.split_loss(split, blocks, mask, state.fitted, text, spread)  # type: ignore[arg-type]
        finally:
            if before is not None:
                model.restore(before)

    @property
    def model(self) -> PlasticModel:
        """The language model with this episode's mask and repair on it, to generate with, save or measure."""
        state = self._any_state()
        self.workbench.install(state.active, state.fitted)
        return self.workbench.model

    @property
    def env_id(self) -> str:
        """The Gymnasium id."""
        title = self.kind.title().replace("_", "")  # "head_rank" is HeadRank
        return f"plasticity/{title}-v{self.version}"

    @property
    def dense_flops(self) -> float:
        """Forward FLOPs per token of the dense model."""
        return self._task.dense_flops

    # -- parts -------------------------------------------------------------------------------------------------------------

    def _enter(self, state: EpisodeState, invalid: int) -> tuple[float, Observation, dict[str, Any]]:
        """Make a state the present one; returns what it pays and shows."""
        self._view = view = self._look(state)
        self._state, reward, terms = self._task.pay(state, float(view.flops[0]))
        if self.render_mode == "human":
            self.render()
        return reward, self._observed(view), self._info(self._state, terms, invalid)

    def _look(self, state: EpisodeState) -> View:
        return self._task.view([state], self.workbench.model.scale)

    def _seen(self) -> View:
        if self._view is None:
            self._view = self._look(self._any_state())
        return self._view

    def _mask(self) -> np.ndarray:
        return self._action_mask(self._seen().allowed.view(self.head_slots, -1).numpy())

    def _info(self, state: EpisodeState, terms: Terms, invalid: int) -> dict[str, Any]:
        return {
            "loss": state.measurement.loss,
            "ppl": math.exp(min(state.measurement.loss, 700.0)),
            "flops": float(self._seen().flops[0]),
            "params": self.workbench.parameter_table.total(state.active),
            "active_heads": int(state.active[:, : self.workbench.model.heads].sum()),
            "active_units": int(state.active.sum()),
            "reward_terms": terms,
            "action_mask": self._mask(),
            "invalid_actions": invalid,
        }

    def _any_state(self) -> EpisodeState:
        if self._state is None:
            raise gym.error.ResetNeeded("call reset() before anything else")
        return self._state

    def _running_state(self) -> EpisodeState:
        state = self._any_state()
        if state.done:
            raise gym.error.ResetNeeded("this episode is over: call reset()")
        return state

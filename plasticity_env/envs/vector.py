"""plasticity/Heads-v1 for N environments at once: their masks are measured in one batch over shared weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.data.text import TextSplits
from plasticity_env.envs.actions import whole_numbers
from plasticity_env.envs.edits import EDITS
from plasticity_env.envs.episode import EpisodeState, read_options
from plasticity_env.envs.make_workbench import make_workbench
from plasticity_env.envs.observation import EnvKind, Observation
from plasticity_env.envs.settings import Settings, settings_for
from plasticity_env.envs.sharing import Sharing
from plasticity_env.envs.task import Task
from plasticity_env.envs.vector_episodes import Episodes, Infos
from plasticity_env.model.contexts import in_plain_mode
from plasticity_env.model.loading import LoadedModel
from plasticity_env.plots.rendering import ansi, picture

RENDER_MODES = ["ansi", "rgb_array"]


class HeadsVectorEnv(VectorEnv[Observation, np.ndarray, np.ndarray]):
    """N environments `plasticity/Heads-v1` over one frozen model.

    Observations, rewards and infos are those of N single environments with the same seeds and actions, to about 1e-5:
    a batch of another shape rounds differently. What N environments share is computed once, and no environment keeps
    weights of its own.

    ```python
    >>> import gymnasium as gym, plasticity_env
    >>> envs = gym.make_vec("plasticity/Heads-v1", num_envs=16, horizon=4)
    ```

    Args:
        num_envs: Number N of environments.
        autoreset_mode: One of Gymnasium's modes: "NextStep" (the step after an episode's end starts the next one, its
            action ignored and its reward 0), "SameStep" or "Disabled".
        tokens_per_pass: Tokens in one pass over the model; None takes 1024 on the CPU, where larger passes leave the
            cache, and everything in one pass elsewhere.
        memory_share: Share of the model's bytes that an environment may add to those of a single one. The second moments of
            its calibration text, which repair and residual scores read, take about 3.5%; those for which there is no
            room are gathered by one more forward a step.
        render_mode: None, "ansi" or "rgb_array".
        loaded: A model to work on instead of ``model_name`` (it becomes this environment's own).
        text: Text to use instead of ``dataset``.
        version: Version of the id, to which columns and bounds of observations belong.
        **settings: See `plasticity_env.envs.settings.Settings`; ``train_steps`` must be 0.

    Raises:
        InputError: Settings that environments in one batch cannot have.
    """

    kind: ClassVar[EnvKind] = "heads"
    default_share: ClassVar[tuple[float, float] | None] = None  # of units to prune, where the task has such a target
    settings_type: ClassVar[type[Settings]] = Settings
    task_type: ClassVar[type[Task]] = Task

    def __init__(
        self,
        num_envs: int = 1,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        tokens_per_pass: int | None = None,
        memory_share: float = 0.02,
        render_mode: str | None = None,
        loaded: LoadedModel | None = None,
        text: TextSplits | None = None,
        version: int = 0,
        **settings: Any,
    ) -> None:
        _check(num_envs, autoreset_mode, tokens_per_pass, memory_share, render_mode)
        self.num_envs, self.render_mode = num_envs, render_mode
        self.settings = settings_for(self.default_share, settings, version, self.settings_type)
        if self.settings.train_steps:
            raise InputError(
                f"train_steps {self.settings.train_steps} needs weights of its own in every environment: use "
                "train_steps=0, or gym.make_vec(..., vectorization_mode='sync')"
            )
        self._mode = AutoresetMode(autoreset_mode)
        self.autoreset_mode = self._mode  # as Gymnasium's SyncVectorEnv has it, beside the metadata
        self.metadata = {"render_modes": RENDER_MODES, "render_fps": 2, "autoreset_mode": self._mode}
        sharing = Sharing(num_envs, tokens_per_pass, memory_share)
        self.workbench = make_workbench(self.settings, loaded, text, sharing)
        self.settings = self.settings.settled(self.workbench.model.neuron_order)
        self.workbench.model.requires_grad_(False)
        self._task = self.task_type(self.settings, self.workbench, version)
        self._task.check_targets(self.settings.pruned_share, self.settings.flop_budget)
        self._episodes = Episodes(self._task, self.workbench, num_envs, self._show_mask, self._more_infos)
        self._randoms: list[tuple[np.random.Generator, int]] = []
        self.head_slots = self._task.slots
        self.single_action_space = self._single_action_space()
        self.single_observation_space = self._single_observation_space()  # type: ignore[assignment]
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)

    # -- Gymnasium's interface -----------------------------------------------------------------------------------------

    @in_plain_mode
    def reset(  # type: ignore[override]
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, Infos]:
        """Start episodes on the dense model.

        Args:
            seed: One for each environment; a number s gives s, s + 1, ...
            options: Options of the single environment, for all; ``reset_mask`` ((N,) boolean) leaves the others as they
                are.

        Returns:
            Observations and infos.
        """
        options = read_options(options)
        chosen = self._chosen(options.pop("reset_mask", None))
        for index, each in enumerate(self._seeds(seed)):
            if index == len(self._randoms):
                self._randoms.append(seeding.np_random(each))
            elif each is not None and chosen[index]:
                self._randoms[index] = seeding.np_random(each)
        if self.workbench.weights_moved():
            if not chosen.all():
                raise InputError("the model's weights changed since the last reset: reset all environments")
            self.workbench.accept_weights()
        self._episodes.turn([], None, self._generators(chosen), options)
        return self._observations(), self._episodes.infos(chosen)

    @in_plain_mode
    def step(self, actions: np.ndarray) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, Infos]:
        """Edit, measure and pay in every environment.

        Args:
            actions: (N, L * U) whole numbers from 0 to 3.

        Returns:
            Observations, rewards in nats, terminated, truncated (never), infos; N of each.
        """
        if not self._episodes.states:
            raise gym.error.ResetNeeded("call reset() before anything else")
        if self.workbench.weights_moved():
            raise InputError("the model's weights changed since reset(): call reset() to go on with them")
        (edits, stops), over = self._edits(actions), self._episodes.over
        if over.any() and self._mode is AutoresetMode.DISABLED:
            raise gym.error.ResetNeeded(f"episodes {np.flatnonzero(over).tolist()} are over: reset() them (reset_mask)")
        rewards = self._episodes.turn(np.flatnonzero(~over).tolist(), edits, self._generators(over), {}, stops)
        done, infos = self._episodes.over, {}
        if done.any() and self._mode is AutoresetMode.SAME_STEP:
            infos = self._final(done)
            self._episodes.turn([], None, self._generators(done), {})
        infos.update(self._episodes.infos(np.ones(self.num_envs, dtype=bool)))
        return self._observations(), rewards, done, np.zeros_like(done), infos

    def render(self) -> tuple[Any, ...] | None:  # type: ignore[override]
        """Draw every environment: text ("ansi") or (H, W, 3) uint8 arrays ("rgb_array")."""
        if self.render_mode is None:
            gym.logger.warn("render() without a render_mode does nothing: gym.make_vec(..., render_mode='ansi')")
            return None
        frames: list[Any] = []
        infos = self._episodes.infos(np.ones(self.num_envs, dtype=bool))
        for index, state in enumerate(self._episodes.states):
            info = {name: infos[name][index] for name in ("active_heads", "ppl", "flops", "params")}
            active, edited = state.active.numpy(), (state.age == 0) & (state.step > 0)
            if self.render_mode == "ansi":
                frames.append(ansi(self.workbench.name, active, edited, info))
            else:
                fisher = state.measurement.signals.fisher.numpy()
                frames.append(picture(self.workbench.name, active, edited, fisher, info))
        return tuple(frames)

    # -- beyond Gymnasium ----------------------------------------------------------------------------------------------

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of each environment's random generator."""
        return tuple(seed for _, seed in self._randoms)

    @property
    def states(self) -> tuple[EpisodeState, ...]:
        """The episode of each environment; ``active`` is its mask."""
        return tuple(self._episodes.states)

    @property
    def dense_flops(self) -> float:
        """Forward FLOPs per token of the dense model."""
        return self._task.dense_flops

    def action_masks(self) -> np.ndarray:
        """(N, 4 * L * U) boolean, True = allowed."""
        return self._episodes.action_mask().astype(bool).reshape(self.num_envs, -1)

    # -- what another kind of action changes -------------------------------------------------------------------------

    def _single_action_space(self) -> gym.spaces.Space[Any]:
        return gym.spaces.MultiDiscrete([len(EDITS)] * self.head_slots)

    def _single_observation_space(self) -> gym.spaces.Space[Any]:
        columns = self._task.columns
        space = columns.flat_space if self.settings.observation == "flat" else columns.space
        return space(self.head_slots, self._action_mask_shape())

    def _more_infos(self, state: EpisodeState) -> dict[str, np.ndarray]:
        """What the infos say of an episode beside what they say of every kind."""
        return {}

    def _action_mask_shape(self) -> tuple[int, ...]:
        return (self.head_slots, len(EDITS))

    def _show_mask(self, allowed: np.ndarray) -> np.ndarray:
        """int8 mask in the shape of the action space, from (N, L * U, 4) allowed edits."""
        return allowed.astype(np.int8)

    def _edits(self, actions: Any) -> tuple[Tensor, np.ndarray | None]:
        """(N, L, U) edits that actions ask for, and (N,) boolean: which agents stop; None where none can."""
        edits = whole_numbers(actions, (self.num_envs, self.head_slots), len(EDITS) - 1, ", ".join(EDITS))
        return torch.from_numpy(edits).view(self.num_envs, *self._task.shape), None

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _observations(self, index: int | None = None) -> Observation:
        view = self._episodes.view
        shown = {"heads": view.heads, "globals": view.globals, "action_mask": self._episodes.action_mask()}
        if self.settings.observation == "flat":
            flat: Any = self._task.columns.flat(shown)
            return flat if index is None else flat[index]
        found = Observation(
            self.kind, {name: values.copy() for name, values in shown.items()}, self._task.columns.extra
        )
        return found if index is None else found.row(index)

    def _final(self, done: np.ndarray) -> Infos:
        """What "SameStep" says of the episodes that ended."""
        last = np.full(self.num_envs, None, dtype=object)
        for index in np.flatnonzero(done).tolist():
            last[index] = self._observations(index)
        infos = self._episodes.infos(done)
        return {"final_obs": last, "_final_obs": done.copy(), "final_info": infos, "_final_info": done.copy()}

    def _generators(self, chosen: np.ndarray) -> dict[int, np.random.Generator]:
        return {index: self._randoms[index][0] for index in np.flatnonzero(chosen).tolist()}

    def _seeds(self, seed: int | Sequence[int | None] | None) -> Sequence[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            return [int(seed) + index for index in range(self.num_envs)]
        if not isinstance(seed, Sequence | np.ndarray) or isinstance(seed, str):
            raise InputError(f"seed must be a whole number or one for each environment, got {seed!r}")
        if len(seed) != self.num_envs:
            raise InputError(f"seed holds {len(seed)} numbers for {self.num_envs} environments: give one for each")
        return seed

    def _chosen(self, mask: Any) -> np.ndarray:
        if mask is None:
            return np.ones(self.num_envs, dtype=bool)
        chosen = np.asarray(mask)
        if chosen.shape != (self.num_envs,) or chosen.dtype != bool or not chosen.any():
            raise InputError(
                f"reset_mask must be boolean of shape ({self.num_envs},) with at least one True, got {mask!r}"
            )
        if not self._episodes.states and not chosen.all():
            raise gym.error.ResetNeeded("call reset() for all environments first, without reset_mask")
        return chosen


def _check(
    num_envs: int,
    autoreset_mode: str | AutoresetMode,
    tokens_per_pass: int | None,
    memory_share: float,
    render_mode: str | None,
) -> None:
    if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
        raise InputError(f"num_envs must be a whole number of at least 1, got {num_envs!r}")
    if autoreset_mode not in [*AutoresetMode, *(mode.value for mode in AutoresetMode)]:
        modes = ", ".join(repr(mode.value) for mode in AutoresetMode)
        raise InputError(f"unknown autoreset_mode {autoreset_mode!r}: use one of {modes}")
    if tokens_per_pass is not None and (not isinstance(tokens_per_pass, int) or tokens_per_pass < 1):
        raise InputError(f"tokens_per_pass must be a whole number of at least 1, or None, got {tokens_per_pass!r}")
    if not memory_share >= 0:
        raise InputError(f"memory_share must be at least 0, got {memory_share!r}")
    if render_mode is not None and render_mode not in RENDER_MODES:
        raise InputError(f"unknown render_mode {render_mode!r}: use 'ansi' or 'rgb_array'")

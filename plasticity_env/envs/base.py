"""What both environments share: episodes, measuring, rewards, state. How an action is read is the subclass's."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from plasticity_env.edits import EditMasks, Limits, allowed_edits, resolve
from plasticity_env.envs.settings import LIMITS, Settings, bounds, check_range
from plasticity_env.errors import InputError
from plasticity_env.finetune import FineTuner, control_arm
from plasticity_env.growth.initial_weights import find_initial_weights
from plasticity_env.loading import LoadedModel, load_model
from plasticity_env.model import PlasticModel, PruningMode, Snapshot
from plasticity_env.observation import (
    HeadState,
    Observation,
    global_vector,
    head_tokens,
    observation_space,
)
from plasticity_env.records import EpisodeRecord
from plasticity_env.rendering import ansi, picture, show
from plasticity_env.rewards import Outcome, Terms, find_reward
from plasticity_env.text import TextSplits, load_text
from plasticity_env.workbench import Indices, Measurement, Workbench


@dataclass(frozen=True)
class EpisodeState:
    """Everything that changes during an episode, but for the model's weights; replaced, never edited.

    Attributes:
        step: Decisions taken.
        active: (L, H) boolean.
        age: (L, H) decisions since each head's last edit.
        price: FLOP price of this episode.
        budget: Target share of dense FLOPs, or None.
        calibration, reward: Blocks of this episode.
        stream: Training stream, or None when the model is frozen.
        reference: Loss of the dense model or of the control arm, nats per token, after each decision.
        measurement: The latest.
        potential: Phi of the latest outcome.
        done: The agent stopped or the horizon is over.
    """

    step: int
    active: Tensor
    age: np.ndarray
    price: float
    budget: float | None
    calibration: Indices
    reward: Indices
    stream: int | None
    reference: tuple[float, ...]
    measurement: Measurement
    potential: float
    done: bool


class PlasticityEnv(gym.Env[Observation, Any]):
    """Common ground of ``plasticity/Heads-v0`` and ``plasticity/HeadEdit-v0``; their pages say how to use them.

    Args:
        render_mode: None, "ansi", "rgb_array" or "human".
        loaded: A model to work on instead of ``model_name`` (it becomes this environment's own).
        text: Text to use instead of ``dataset``.
        **settings: See `plasticity_env.envs.settings.Settings`.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array", "human"], "render_fps": 2}  # noqa: RUF012
    env_id: ClassVar[str]

    def __init__(
        self,
        render_mode: str | None = None,
        loaded: LoadedModel | None = None,
        text: TextSplits | None = None,
        **settings: Any,
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise InputError(f"unknown render_mode {render_mode!r}: use 'ansi', 'rgb_array' or 'human'")
        unknown_names = sorted(set(settings) - set(Settings.__dataclass_fields__))
        if unknown_names:
            raise InputError(
                f"unknown environment argument {unknown_names[0]!r}: known are {', '.join(Settings.__dataclass_fields__)}"
            )
        self.render_mode = render_mode
        self.settings = Settings(**settings)
        self._rule = find_reward(self.settings.reward)
        if loaded is None:
            loaded = load_model(
                self.settings.model_name,
                mode=PruningMode.ADAPTIVE,
                device=self.settings.device,
                mlp_blocks=self.settings.blocks_of_neurons,
            )
        if text is None:
            text = load_text(
                self.settings.dataset,
                loaded.tokenizer,
                dataset_config=self.settings.dataset_config,
                block_size=self.settings.max_length,
            )
        self._check_sizes(loaded, text)
        self.workbench = Workbench(
            loaded,
            text,
            repair=self.settings.repair,
            obs=self.settings.obs_signal,
            batch_size=self.settings.batch_size,
            want_kl=self._rule.needs_kl,
            residual=self.settings.residual_signal,
        )
        layers, heads = loaded.model.shape
        self.head_slots = layers * heads
        self.action_space = self._action_space(self.head_slots)
        self.observation_space = observation_space(  # type: ignore[assignment]
            self.head_slots, self._action_mask_shape(self.head_slots)
        )
        self._dense: Snapshot = loaded.model.snapshot(weights=self.settings.train_steps > 0)
        self._arms: dict[int, tuple[Indices, tuple[float, ...]]] = {}  # by stream; forks share them
        self._tuner: FineTuner | None = None
        self._state: EpisodeState | None = None
        self._record: EpisodeRecord | None = None

    # -- what a subclass says ------------------------------------------------------------------------------------------

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

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode on the dense model.

        Args:
            seed: Seeds the draws of price, budget and blocks.
            options: May fix ``flop_price``, ``flop_budget``, ``calibration`` and ``reward`` (lists of block numbers)
                and ``stream``.

        Returns:
            Observation and info.
        """
        super().reset(seed=seed)
        price, budget, calibration, reward, stream = self._draw(dict(options or {}))
        bench = self.workbench
        bench.model.restore(self._dense)
        active = torch.ones(bench.model.shape, dtype=torch.bool)
        reference: tuple[float, ...] = ()
        if stream is not None:
            reference = self._control_arm(stream, reward)
            self._tuner = self._new_tuner(stream)
        measurement = bench.measure(active, calibration, reward)
        if stream is None:
            reference = (measurement.loss,)
        self._state = EpisodeState(
            step=0,
            active=active,
            age=np.zeros(bench.model.shape, dtype=np.int64),
            price=price,
            budget=budget,
            calibration=calibration,
            reward=reward,
            stream=stream,
            reference=reference,
            measurement=measurement,
            potential=0.0,
            done=False,
        )
        terms = self._terms(self._state)
        self._state = replace(self._state, potential=sum(terms.values()))
        self._record = EpisodeRecord(self.env_id, self.settings.kwargs(), self._reset_options(), (), ())
        if self.render_mode == "human":
            self.render()
        return self._observation(self._state), self._info(self._state, terms, 0)

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Edit, train if asked to, measure, pay.

        Returns:
            Observation, reward in nats, terminated (the agent stopped, or the horizon is over: the time that is left is
            part of the observation, so this end belongs to the task), truncated (never, left to wrappers), info.
        """
        state = self._running_state()
        edits, stop = self.edits_of(action)
        masks, invalid = self._resolve(state, edits)
        active = (state.active & ~masks.prune) | masks.revive | masks.grow
        edited = (masks.prune | masks.revive | masks.grow).numpy()
        bench = self.workbench
        if state.stream is not None:
            self._edit_and_train(state, masks)
        measurement = bench.measure(active, state.calibration, state.reward)
        step = state.step + 1
        state = replace(
            state,
            step=step,
            active=active,
            age=np.where(edited, 0, state.age + 1),
            measurement=measurement,
            done=stop or step >= self.settings.horizon,
        )
        terms = self._terms(state)
        potential = sum(terms.values())
        reward = potential - state.potential
        self._state = replace(state, potential=potential)
        assert self._record is not None
        self._record = self._record.then(action, reward)
        if self.render_mode == "human":
            self.render()
        return self._observation(self._state), reward, state.done, False, self._info(self._state, terms, invalid)

    def action_masks(self) -> np.ndarray:
        """Flat boolean mask as sb3-contrib's MaskablePPO wants it, True = allowed."""
        return self._mask(self._any_state()).astype(bool).reshape(-1)

    def render(self) -> Any:
        """Draw the heads: text ("ansi"), an (H, W, 3) uint8 array ("rgb_array"), or a window ("human")."""
        if self.render_mode is None:
            gym.logger.warn("render() without a render_mode does nothing: gym.make(..., render_mode='ansi')")
            return None
        state = self._any_state()
        info = self._info(state, self._terms(state), 0)
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
        trains = self.settings.train_steps > 0
        optimizer = copy.deepcopy(self._tuner.optimizer.state_dict()) if self._tuner else None
        return {
            "episode": self._state,
            "record": self._record,
            "random": copy.deepcopy(self.np_random.bit_generator.state),
            "model": self.workbench.model.snapshot(weights=True) if trains else None,
            "optimizer": optimizer,
            "taken": self._tuner.taken if self._tuner else 0,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Come back to what `get_state` of this environment (or of its fork) returned."""
        self._state, self._record = state["episode"], state["record"]
        self.np_random.bit_generator.state = copy.deepcopy(state["random"])
        if state["model"] is not None:
            self.workbench.model.restore(state["model"])
        if state["optimizer"] is not None:
            assert self._state is not None
            assert self._state.stream is not None
            self._tuner = self._new_tuner(self._state.stream)
            self._tuner.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
            self._tuner.taken = state["taken"]

    def fork(self) -> PlasticityEnv:
        """An independent copy that goes on from here; while the model is frozen both share its weights and memo."""
        state = self.get_state()
        clone = copy.copy(self)
        clone._np_random = copy.deepcopy(self._np_random)
        if self.settings.train_steps > 0:
            text = self.workbench.text  # never edited: shared
            clone._tuner, clone.workbench = None, copy.deepcopy(self.workbench, {id(text): text})
        clone.set_state(state)
        return clone

    def episode_record(self) -> EpisodeRecord:
        """The episode so far, enough to replay it: see `plasticity_env.validate`."""
        if self._record is None:
            raise InputError("no episode yet: call reset() first")
        return self._record

    def preview(self, action: Any) -> Tensor:
        """(L, H) mask that an action would lead to; nothing is edited and nothing measured."""
        state = self._running_state()
        masks, _ = self._resolve(state, self.edits_of(action)[0])
        return (state.active & ~masks.prune) | masks.revive | masks.grow

    def evaluate(self, split: str = "test", blocks: int | None = None, active: Tensor | None = None) -> float:
        """Mean loss in nats per token, on text that no observation or reward reads.

        Args:
            split: Usually "test".
            blocks: How many blocks from its start; None for all.
            active: (L, H) mask to evaluate, repaired as this episode repairs; the present one when None.
        """
        state = self._any_state()
        mask = state.active if active is None else active
        model = self.workbench.model
        trains = self.settings.train_steps > 0  # a frozen model gets its mask and repair anew whenever it is used
        before = model.snapshot(weights=False) if trains else None
        loss = self.workbench.split_loss(split, blocks, mask, state.calibration)  # type: ignore[arg-type]
        if before is not None:
            model.restore(before)
        return loss

    @property
    def model(self) -> PlasticModel:
        """The language model with this episode's mask and repair on it, to generate with, save or measure."""
        state = self._any_state()
        self.workbench.install(state.active, state.calibration)
        return self.workbench.model

    @property
    def dense_flops(self) -> float:
        """Forward FLOPs per token of the dense model."""
        return self.workbench.flop_table.total(torch.ones(self.workbench.model.shape, dtype=torch.bool))

    # -- parts -------------------------------------------------------------------------------------------------------------

    def _check_sizes(self, loaded: LoadedModel, text: TextSplits) -> None:
        longest = getattr(loaded.model.config, "max_position_embeddings", None)
        if longest is not None and text.block_size > longest:
            raise InputError(f"max_length {text.block_size} exceeds the {longest} positions of {loaded.name!r}")
        for split, wanted in (
            ("calibration", self.settings.calibration_blocks),
            ("reward", self.settings.reward_blocks),
        ):
            there = len(text.blocks(split))  # type: ignore[arg-type]
            if wanted > there:
                raise InputError(
                    f"{split}_blocks {wanted} is more than the {there} blocks of {text.block_size} tokens in the {split} "
                    f"split of {text.name!r}: ask for fewer or use a longer text"
                )
        if loaded.model.mlp_blocks != self.settings.blocks_of_neurons:
            raise InputError(
                f"the model was wrapped with mlp_blocks={loaded.model.mlp_blocks}, the environment wants "
                f"{self.settings.blocks_of_neurons} (units={self.settings.units!r}): load it with load_model(..., mlp_blocks=...)"
            )
        if self.settings.min_heads_per_layer > loaded.model.heads:
            raise InputError(
                f"min_heads_per_layer {self.settings.min_heads_per_layer} exceeds the {loaded.model.heads} heads a layer"
            )

    def _draw(self, options: dict[str, Any]) -> tuple[float, float | None, Indices, Indices, int | None]:
        known = {"flop_price", "flop_budget", "calibration", "reward", "stream"}
        if set(options) - known:
            raise InputError(f"unknown reset option {sorted(set(options) - known)[0]!r}: known are {sorted(known)}")
        ranges = {name: options.get(name, getattr(self.settings, name)) for name in ("flop_price", "flop_budget")}
        for name, (above, most) in LIMITS.items():
            check_range(name, ranges[name], above, most)
        # both are always drawn, so that a fixed price changes nothing else about a seed
        low, high = bounds(ranges["flop_price"])
        price = math.exp(math.log(low) + self.np_random.random() * (math.log(high) - math.log(low)))
        drawn = float(self.np_random.uniform(*bounds(ranges["flop_budget"])))
        budget = drawn if self._rule.needs_budget else None
        stream, random = None, self.np_random
        if self.settings.train_steps > 0:  # a stream comes with its batches, so that its control arm is trained once
            stream = int(options.get("stream", self.np_random.integers(self.settings.train_streams)))
            random = np.random.default_rng([stream, 1])
        calibration = self._pick(random, "calibration", self.settings.calibration_blocks, options)
        reward = self._pick(random, "reward", self.settings.reward_blocks, options)
        return price, budget, calibration, reward, stream

    def _pick(self, random: np.random.Generator, split: str, count: int, options: dict[str, Any]) -> Indices:
        there = len(self.workbench.text.blocks(split))  # type: ignore[arg-type]
        drawn = tuple(int(i) for i in np.sort(random.choice(there, count, replace=False)))
        given = tuple(int(i) for i in options.get(split, drawn))
        if not given or min(given) < 0 or max(given) >= there:
            raise InputError(f"{split} blocks must be numbers from 0 to {there - 1}, got {list(given)}")
        return given

    def _reset_options(self) -> dict[str, Any]:
        state = self._any_state()
        options: dict[str, Any] = {
            "flop_price": state.price,
            "calibration": list(state.calibration),
            "reward": list(state.reward),
        }
        if state.budget is not None:
            options["flop_budget"] = state.budget
        if state.stream is not None:
            options["stream"] = state.stream
        return options

    def _resolve(self, state: EpisodeState, edits: Tensor) -> tuple[EditMasks, int]:
        fisher = state.measurement.signals.fisher
        return resolve(state.active, edits, self._limits(state), self.workbench.flop_table, fisher)

    def _limits(self, state: EpisodeState) -> Limits:
        most = min(math.floor(self.settings.max_sparsity * self.head_slots + 1e-9), self.head_slots - 1)
        return Limits(
            PruningMode.parse(self.settings.mode),
            self.settings.train_steps > 0,
            self.settings.min_heads_per_layer,
            most,
            None if state.budget is None else state.budget * self.dense_flops,
        )

    def _new_tuner(self, stream: int) -> FineTuner:
        blocks = self.workbench.text.blocks("train")
        random = np.random.default_rng([stream, 2])
        steps = self.settings.horizon * self.settings.train_steps
        order = torch.from_numpy(random.integers(len(blocks), size=(steps, self.settings.batch_size)))
        return FineTuner(self.workbench.model, blocks, order, self.settings.learning_rate)

    def _control_arm(self, stream: int, reward: Indices) -> tuple[float, ...]:
        known = self._arms.get(stream)
        if known is None or known[0] != reward:
            ids = self.workbench.blocks("reward", reward)
            tuner, settings = self._new_tuner(stream), self.settings
            losses = control_arm(tuner, ids, settings.horizon, settings.train_steps, settings.batch_size)
            known = self._arms[stream] = (reward, tuple(losses))
            self.workbench.model.restore(self._dense)
        return known[1]

    def _edit_and_train(self, state: EpisodeState, masks: EditMasks) -> None:
        assert self._tuner is not None
        assert state.stream is not None
        model = self.workbench.model
        model.prune(masks.prune)
        model.revive(masks.revive)
        if bool(masks.grow.any()):
            generator = torch.Generator().manual_seed(1_000_003 * state.stream + state.step)
            weights = find_initial_weights(self.settings.growth_init)(state.measurement.signals.fisher)
            warmup = self.settings.grow_warmup_steps
            model.grow(masks.grow, warmup_steps=warmup, generator=generator, weights=weights)
            model.forget_moments(masks.grow, self._tuner.optimizer)
        self.workbench.install(model.active, state.calibration)
        self._tuner.run(self.settings.train_steps)

    def _outcome(self, state: EpisodeState) -> Outcome:
        return Outcome(
            loss=state.measurement.loss,
            reference_loss=state.reference[min(state.step, len(state.reference) - 1)],
            flops=self.workbench.flop_table.total(state.active),
            dense_flops=self.dense_flops,
            flop_price=state.price,
            budget=state.budget,
            kl=state.measurement.kl,
        )

    def _terms(self, state: EpisodeState) -> Terms:
        return self._rule.terms(self._outcome(state))

    def _mask(self, state: EpisodeState) -> np.ndarray:
        allowed = allowed_edits(state.active, self._limits(state), self.workbench.flop_table)
        return self._action_mask(allowed.view(self.head_slots, -1).numpy())

    def _observation(self, state: EpisodeState) -> Observation:
        bench, outcome = self.workbench, self._outcome(state)
        limits = self._limits(state)
        tokens = head_tokens(
            HeadState(
                state.active,
                bench.model.scale * state.active,
                state.age,
                bench.flop_table.marginal(state.active) / self.dense_flops,
                bench.flop_table.group_size,
                bench.model.heads,
            ),
            state.measurement.signals,
            hide_pruned=limits.mode is PruningMode.COMPRESSED,
        )
        pruned = int((~state.active).sum())
        values = {
            "step": state.step / self.settings.horizon,
            "steps_left": self.settings.horizon - state.step,
            "horizon": self.settings.horizon,
            "active_share": 1 - pruned / self.head_slots,
            "log_flops_kept": outcome.log_flops_kept,
            "log_ppl_kept": outcome.log_ppl_kept,
            "flop_price": state.price,
            "log_flop_price": math.log(state.price),
            "budget": state.budget or 0.0,
            "max_sparsity": self.settings.max_sparsity,
            "prunable": (limits.max_pruned - pruned) / self.head_slots,
            "compressed": float(limits.mode is PruningMode.COMPRESSED),
            "trains": float(limits.trains),
            "repairs": float(self.settings.repair != "none"),
            "log_layers": math.log(len(state.active)),
            "log_heads": math.log(bench.model.heads),
            "log_mlp_blocks": math.log1p(bench.model.mlp_blocks),
        }
        return {"heads": tokens, "globals": global_vector(values), "action_mask": self._mask(state)}

    def _info(self, state: EpisodeState, terms: Terms, invalid: int) -> dict[str, Any]:
        return {
            "loss": state.measurement.loss,
            "ppl": math.exp(min(state.measurement.loss, 700.0)),
            "flops": self.workbench.flop_table.total(state.active),
            "params": self.workbench.parameter_table.total(state.active),
            "active_heads": int(state.active[:, : self.workbench.model.heads].sum()),
            "active_units": int(state.active.sum()),
            "reward_terms": terms,
            "action_mask": self._mask(state),
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

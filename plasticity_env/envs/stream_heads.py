"""plasticity/Stream-v0 with control="heads": the edits and observation of Heads, on a text that drifts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from plasticity_env.common.errors import InputError
from plasticity_env.data.text import SPLITS, TextSplits
from plasticity_env.envs.episode import EpisodeState
from plasticity_env.envs.heads import HeadsEnv
from plasticity_env.envs.observation import Observation
from plasticity_env.envs.stream_bench import StreamTexts
from plasticity_env.envs.stream_settings import StreamSettings
from plasticity_env.model.contexts import in_plain_mode
from plasticity_env.model.loading import LoadedModel, load_model
from plasticity_env.signals.measure import mean_loss

OPTIONS = ("flop_price", "stream")


class StreamHeadsEnv(HeadsEnv):
    """Prune and revive heads while a stream of text drifts.

    As `plasticity/Heads-v1` with a frozen model, but that every decision reads the chunks that just ran (`window` of them score
    the heads and repair) and is paid on the next one: log(ppl_0 / ppl) - price * log(flops / flops_0) of that chunk, against
    the dense model on it. Measuring goes through the model with gradients at every chunk: ``info["billed"]`` says how many
    chunks of the dense model that is; it is the same whatever the agent does, and the reward leaves it out.

    Args:
        render_mode: One of the modes of `HeadsEnv`.
        loaded: A model to use instead of ``model_name``.
        texts: Texts by kind, to use instead of ``datasets``.
        window: Chunks that score and repair.
        **settings: See `plasticity_env.envs.stream_settings.StreamSettings`; those of fitted structures are not read.
    """

    def __init__(
        self,
        render_mode: str | None = None,
        loaded: LoadedModel | None = None,
        texts: Mapping[str, TextSplits] | None = None,
        window: int = 4,
        **settings: Any,
    ) -> None:
        self.stream_settings = StreamSettings.read(settings)
        own = self.stream_settings
        loaded = load_model(own.model_name, device=own.device) if loaded is None else loaded
        self.stream_texts = StreamTexts(own, loaded.tokenizer, texts)
        pool = torch.cat(list(self.stream_texts.chunks.values()))
        text = TextSplits("a stream", own.max_length, loaded.tokenizer, {}, dict.fromkeys(SPLITS, pool))
        super().__init__(
            render_mode,
            loaded,
            text,
            version=1,
            horizon=max(1, own.chunks - 1),
            calibration_blocks=window,
            reward_blocks=1,
            max_length=own.max_length,
            flop_price=own.flop_price,
            observation=own.observation,
            batch_size=own.batch_size,
            device=own.device,
        )
        self._stream: list[tuple[str, int]] = []
        self._dense: dict[int, float] = {}

    @in_plain_mode
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start a stream on the dense model; its first chunk has run.

        Args:
            seed: Seeds stream and price.
            options: May fix ``flop_price`` and ``stream``, as with control="bank".
        """
        chosen = dict(options or {})
        unknown_names = sorted(set(chosen) - set(OPTIONS))
        if unknown_names:
            raise InputError(f"unknown option {unknown_names[0]!r}: known are {', '.join(OPTIONS)}")
        given = {name: chosen[name] for name in ("flop_price",) if name in chosen}
        super().reset(seed=seed, options={**given, "calibration": [0], "reward": [0]})
        stream = self.stream_texts.drawn(
            self.np_random
        )  # in any case, so that an option does not shift what a seed means
        self._stream = self.stream_texts.read(chosen["stream"]) if "stream" in chosen else stream
        first = self.stream_texts.place(*self._stream[0])
        state = replace(self._any_state(), calibration=(first,), reward=(first,))
        (measurement,) = self.workbench.measure([state.request(state.active)])
        started = EpisodeState.start(state, measurement, (measurement.loss,), self._task.shape)
        self._record = None  # blocks change from decision to decision, which a record cannot say
        _, observation, info = self._enter(started, 0)
        return observation, self._told(info, 0)

    @in_plain_mode
    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Edit, run the next chunk, measure it, pay."""
        state = self._running_state()
        self._training.refuse_moved_weights()
        edits, stop = self.edits_of(action)
        masks, invalid = self._task.resolve(state, edits, self._seen().allowed[0])
        number = state.step + 1
        window = range(max(0, number - self.settings.calibration_blocks), number)
        read = tuple(sorted({self.stream_texts.place(*self._stream[back]) for back in window}))
        paid = self.stream_texts.place(*self._stream[number])
        state = replace(
            state, calibration=read, reward=(paid,), reference=(*state.reference, self._dense_loss(paid)), potential=0.0
        )
        (measurement,) = self.workbench.measure([state.request(state.after(masks))])
        state = state.then(masks, measurement, done=stop or number + 1 >= len(self._stream))
        reward, observation, info = self._enter(state, invalid)
        return observation, reward, state.done, False, self._told(info, number)

    def _dense_loss(self, place: int) -> float:
        known = self._dense.get(place)
        if known is None:
            with self.workbench.model.dense():
                known = mean_loss(self.workbench.model, self.workbench.blocks("reward", (place,)))
            self._dense[place] = known
        return known

    def _told(self, info: dict[str, Any], number: int) -> dict[str, Any]:
        kind, chunk = self._stream[number]
        state = self._any_state()
        return info | {
            "kind": kind,
            "chunk": chunk,
            "dense_loss": state.reference[min(state.step, len(state.reference) - 1)],
            "flops_kept": info["flops"] / self.dense_flops,
            "billed": 3.0 * len(state.calibration),
        }

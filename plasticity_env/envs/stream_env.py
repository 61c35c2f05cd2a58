"""plasticity/Stream-v0: one long text that drifts; keep, measure anew or recall a structure, chunk by chunk."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from plasticity_env.common.child_processes import daemon_ends_with_parent
from plasticity_env.common.errors import InputError, unknown
from plasticity_env.common.values import brief
from plasticity_env.data.text import TextSplits
from plasticity_env.dynamic.running import RunningEstimate
from plasticity_env.dynamic.structure import Structure
from plasticity_env.envs.rewards import Outcome, find_reward
from plasticity_env.envs.settings import bounds
from plasticity_env.envs.stream_bench import ChunkRun, StreamBench
from plasticity_env.envs.stream_heads import StreamHeadsEnv
from plasticity_env.envs.stream_settings import StreamSettings
from plasticity_env.model.contexts import in_plain_mode
from plasticity_env.model.loading import LoadedModel

KEEP, MEASURE, RECALL = 0, 1, 2  # RECALL + k recalls structure k
BOUND = 10.0
OPTIONS = ("flop_price", "stream")
SLOW, FAST = 0.9, 0.5  # of the running means whose difference tells of a drift
STRUCTURE_COLUMNS = ("in_use", "log_flops_kept", "distance", "last_loss", "age")
GLOBAL_COLUMNS = ("log_price", "time_left", "drift", "since_measured", "measured_there")


class StreamEnv(gym.Env[Any, Any]):
    """Keep a pruned language model fit for a stream of text whose kind changes.

    ## Description
    A seeded stream of chunks: stages of random length, each of one kind of text, that come and go. Every chunk runs under one
    structure (a mask and its repair). Before the next chunk the agent keeps the structure, recalls one of the bank (fitted on
    calibration text of each kind, and on their mixture), or measures: the last chunk goes through the dense model once more,
    with gradients, and a structure is fitted to what the stream said lately and the mixture as a prior. Measuring is billed.
    Chunks are read one by one: no attention reaches into the one before. The language model is frozen.

    ## Action Space
    `Discrete(K + 2)`: 0 keeps, 1 measures, 2 + k recalls structure k (0 is the dense model).

    ## Observation Space
    `Dict`, or with `observation="flat"` one `Box` of the same numbers in this order, all within [-10, 10]:

    | Part | Shape | What |
    |------|-------|------|
    | `chunk` | (34,) | of the last chunk: projection of hidden states, loss, entropy |
    | `structures` | (K + 1, 5) | in use, log FLOPs kept, distance to its text, last loss, age; the measured one last |
    | `globals` | (5,) | log price, time left, drift of the loss, time since a measurement, whether there was one |

    Ages and times are shares of the episode. The kind of text is not observed.

    ## Rewards
    Chunk by chunk what it cost, in nats: log(ppl_0 / ppl) - price * log(flops / flops_0), against the dense model on the
    same chunk. The FLOPs of a measurement are those of the chunk before which it was made.

    ## Starting State
    The first chunk has run under the mixture's structure. Stream and price are drawn with the seed, or given in
    `reset(options={"flop_price": 1.0, "stream": [["mixed:json", 3], ...]})` (kind and number of each chunk).

    ## Episode End
    Terminates after `chunks` chunks. Never truncates.

    ## Information
    `loss`, `dense_loss`, `flops_kept` (with what was billed), `billed`, `structure`, `kind` and `chunk` of the chunk that ran.

    ## Arguments
    `control="heads"` is `plasticity_env.envs.stream_heads.StreamHeadsEnv`, which has the actions and the observation of Heads.
    The others are in `plasticity_env.envs.stream_settings.StreamSettings`:
    ```python
    >>> import gymnasium as gym, plasticity_env
    >>> env = gym.make("plasticity/Stream-v0", model_name="mixed-llama-4x8", chunks=32, share=0.5)
    ```

    ## Version History
    * v0: first version
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 2}  # noqa: RUF012

    def __init__(
        self,
        render_mode: str | None = None,
        loaded: LoadedModel | None = None,
        texts: Mapping[str, TextSplits] | None = None,
        bench: StreamBench | None = None,
        **settings: Any,
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise InputError(f"unknown render_mode {render_mode!r}: use 'ansi'")
        daemon_ends_with_parent()
        self.render_mode = render_mode
        if bench is not None and (settings or loaded is not None or texts is not None):
            raise InputError("bench brings model, texts and settings along: leave the other arguments out")
        self.settings = StreamSettings.read(settings) if bench is None else bench.settings
        self.bench = StreamBench(self.settings, loaded, texts) if bench is None else bench
        structures = len(self.bench.bank)
        self.action_space = gym.spaces.Discrete(structures + RECALL)
        shapes = {
            "chunk": (34,),
            "structures": (structures + 1, len(STRUCTURE_COLUMNS)),
            "globals": (len(GLOBAL_COLUMNS),),
        }
        boxes = {name: gym.spaces.Box(-BOUND, BOUND, shape, np.float32) for name, shape in shapes.items()}
        size = sum(math.prod(shape) for shape in shapes.values())
        flat = gym.spaces.Box(-BOUND, BOUND, (size,), np.float32)
        self.observation_space = flat if self.settings.observation == "flat" else gym.spaces.Dict(list(boxes.items()))
        self._rule = find_reward("ppl_per_flop")
        self._stream: list[tuple[str, int]] = []
        self._step = 0

    # -- Gymnasium's interface -------------------------------------------------------------------------------------------

    @in_plain_mode
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start a stream; its first chunk runs under the mixture's structure.

        Args:
            seed: Seeds stream and price.
            options: May fix ``flop_price`` and ``stream`` ([kind, number] of each chunk).

        Raises:
            InputError: An option that is unknown or cannot be used.
        """
        super().reset(seed=seed)
        chosen = dict(options or {})
        unknown_names = sorted(set(chosen) - set(OPTIONS))
        if unknown_names:
            raise InputError(f"unknown option {unknown_names[0]!r}: known are {', '.join(OPTIONS)}")
        low, high = bounds(self.settings.flop_price)
        drawn = float(np.exp(self.np_random.uniform(np.log(low), np.log(high))))
        stream = self.bench.source.drawn(
            self.np_random
        )  # drawn in any case, so that an option does not shift what a seed means
        self.price = self._read_price(chosen.get("flop_price", drawn))
        self._stream = self.bench.source.read(chosen["stream"]) if "stream" in chosen else stream
        bank = self.bench.bank
        self._current: Structure = bank[len(bank) - 1]
        self._in_use = len(bank) - 1
        self._measured: Structure | None = None
        self._estimate = RunningEstimate(self.bench.prior, self.settings.prior_tokens, self.settings.forget)
        self._last_loss = np.zeros(len(bank) + 1)
        self._age = np.full(len(bank) + 1, float(len(self._stream)))
        self._since_measured, self._step = float(len(self._stream)), 0
        self._slow: float | None = None
        self._fast = 0.0
        run = self._run()
        return self._observation(run), self._info(run, 0.0)

    @in_plain_mode
    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Decide, then run the next chunk.

        Returns:
            Observation, reward in nats, terminated (the stream is over), truncated (never), info.

        Raises:
            InputError: No such action.
        """
        if not self._stream:
            raise gym.error.ResetNeeded("call reset() before anything else")
        if self._step >= len(self._stream):
            raise gym.error.ResetNeeded("this stream is over: call reset()")
        billed = self._decide(self._read_action(action))
        run = self._run()
        info = self._info(run, billed)
        outcome = Outcome(run.loss, run.dense_loss, info["flops_kept"], 1.0, self.price)
        reward = float(sum(self._rule.terms(outcome).values()))
        return self._observation(run), reward, self._step >= len(self._stream), False, info

    def render(self) -> str | None:  # type: ignore[override]
        """One line: where the stream is, what runs, what it costs."""
        if self.render_mode is None:
            gym.logger.warn("render() without a render_mode does nothing: gym.make(..., render_mode='ansi')")
            return None
        kind, number = self._stream[self._step - 1]
        names = [*self.bench.bank.names, "measured"]
        return f"chunk {self._step}/{len(self._stream)} ({kind} {number}) under {names[self._in_use]}: loss {self._fast:.3f}"

    @property
    def structure(self) -> Structure:
        """The structure that the last chunk ran under, a recalled or a measured one."""
        return self._current

    def next_run(self, action: Any) -> tuple[str, int, int] | None:
        """Kind and number of the chunk that comes next, and the structure of the bank that it runs under after an action.

        Returns:
            None where the action measures, or keeps what was measured, or no chunk comes next, as before the first reset.

        Raises:
            InputError: No such action.
        """
        if self._step >= len(self._stream):
            return None
        taken = self._read_action(action)
        place = taken - RECALL if taken >= RECALL else self._in_use
        if taken == MEASURE or place == len(self.bench.bank):
            return None
        return (*self._stream[self._step], place)

    @property
    def stream(self) -> tuple[tuple[str, int], ...]:
        """Kind and number of every chunk of this stream, which no agent sees: for oracles and studies."""
        return tuple(self._stream)

    @property
    def next_chunk(self) -> tuple[str, int]:
        """Kind and number of the chunk that comes next, which no agent sees: for oracles.

        Raises:
            ResetNeeded: There is none.
        """
        if self._step >= len(self._stream):
            raise gym.error.ResetNeeded("no chunk comes next: call reset()")
        return self._stream[self._step]

    # -- decisions -------------------------------------------------------------------------------------------------------

    def _decide(self, action: int) -> float:
        """Take an action; returns what it is billed, in chunks of the dense model."""
        bank = self.bench.bank
        if action >= RECALL:
            self._in_use = action - RECALL
            self._current = bank[self._in_use]
        elif action == MEASURE:
            kind, number = self._stream[self._step - 1]
            self._estimate.add(self.bench.sums(kind, number))
            self._current = self._measured = self._estimate.structure(
                self.bench.model, self.settings.share, self.settings.max_length
            )
            self._in_use, self._since_measured = len(bank), 0.0
            return self.bench.measuring
        return 0.0

    def _run(self) -> ChunkRun:
        """Run the next chunk under the structure in use."""
        run = self.bench.run(*self._stream[self._step], self._current)
        self._step += 1
        self._age += 1
        self._since_measured += 1
        self._age[self._in_use], self._last_loss[self._in_use] = 0.0, run.loss
        self._slow = run.loss if self._slow is None else SLOW * self._slow + (1 - SLOW) * run.loss
        self._fast = run.loss if self._step == 1 else FAST * self._fast + (1 - FAST) * run.loss
        return run

    # -- what is shown ---------------------------------------------------------------------------------------------------

    def _observation(self, run: ChunkRun) -> Any:
        structures, total = len(self.bench.bank) + 1, len(self._stream)
        rows = np.zeros((structures, len(STRUCTURE_COLUMNS)), np.float32)
        rows[self._in_use, 0] = 1.0
        kept = [*self.bench.flops_kept, self._flops_of_measured()]
        rows[:, 1] = np.log(kept)
        rows[1 : 1 + len(run.distance), 2] = run.distance.numpy() / 4  # the mixture has no text of its own: 0
        rows[:, 3], rows[:, 4] = self._last_loss, np.minimum(self._age / total, 1.0)
        shown = {
            "chunk": run.features.numpy(),
            "structures": rows,
            "globals": np.array(
                [
                    math.log(self.price),
                    1 - self._step / total,
                    self._fast - (self._slow or 0.0),
                    min(self._since_measured / total, 1.0),
                    float(self._measured is not None),
                ]
            ),
        }
        shown = {name: np.clip(values, -BOUND, BOUND).astype(np.float32) for name, values in shown.items()}
        if self.settings.observation == "dict":
            return shown
        return np.concatenate([values.ravel() for values in shown.values()])

    def _info(self, run: ChunkRun, billed: float) -> dict[str, Any]:
        kind, number = self._stream[self._step - 1]
        kept = [*self.bench.flops_kept, self._flops_of_measured()][self._in_use]
        return {
            "loss": run.loss,
            "dense_loss": run.dense_loss,
            "flops_kept": kept + billed,
            "billed": billed,
            "structure": [*self.bench.bank.names, "measured"][self._in_use],
            "kind": kind,
            "chunk": number,
        }

    def _flops_of_measured(self) -> float:
        if self._measured is None:
            return 1.0
        return float(self.bench.table.total(self._measured.active)) / self.bench.dense_flops

    # -- what is given -----------------------------------------------------------------------------------------------------

    def _read_price(self, price: Any) -> float:
        if isinstance(price, bool) or not isinstance(price, int | float | np.number) or not 0 < float(price) <= 1e6:
            raise InputError(f"option flop_price must lie above 0, at most 1e6; got {brief(price)}")
        return float(price)

    def _read_action(self, action: Any) -> int:
        values, actions = np.asarray(action), len(self.bench.bank) + RECALL
        if values.size != 1 or values.dtype.kind not in "iu" or not 0 <= int(values.ravel()[0]) < actions:
            raise InputError(f"an action must be a whole number in [0, {actions}), got {brief(action)}")
        return int(values.ravel()[0])


def stream_env(control: str = "bank", **arguments: Any) -> StreamEnv | StreamHeadsEnv:
    """The environment that ``gym.make("plasticity/Stream-v0")`` makes.

    Args:
        control: bank (`StreamEnv`: keep, measure, recall), or heads (`StreamHeadsEnv`: prune and revive heads, as in Heads).
        **arguments: Arguments of that environment.

    Raises:
        InputError: If `control` is neither of them.
    """
    ways: dict[str, type[StreamEnv] | type[StreamHeadsEnv]] = {"bank": StreamEnv, "heads": StreamHeadsEnv}
    if control not in ways:
        raise unknown("control", control, ways)
    return ways[control](**arguments)

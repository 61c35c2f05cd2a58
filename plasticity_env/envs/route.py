"""plasticity/Route-v0: under which structure the rest of a text runs, decided from its first tokens."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from plasticity_env.common.child_processes import daemon_ends_with_parent
from plasticity_env.common.errors import InputError
from plasticity_env.common.files import ZOO_FOLDER
from plasticity_env.common.values import brief
from plasticity_env.envs.replay import EpisodeRecord
from plasticity_env.envs.route_board import RouteBoard
from plasticity_env.envs.route_episodes import RouteEpisodes, read_route_actions, read_route_options
from plasticity_env.envs.route_rendering import described, text_picture
from plasticity_env.envs.route_settings import RouteSettings

if TYPE_CHECKING:
    from plasticity_env.dynamic.route_table import RouteTable

SHIPPED_TABLE = ZOO_FOLDER / "routes" / "bard-llama-6x8"
ROUTE_ID = "plasticity/Route-v0"


class RouteEnv(gym.Env[Any, Any]):
    """Pick a pruned structure of a language model for each text.

    ## Description
    A bank holds K structures of one model: masks with their repairs, fitted on kinds of text, of several sizes; structure 0 is
    the dense model. An episode is one text. Its first tokens (the prefix) ran dense; the agent sees what they tell and picks
    the structure under which the rest runs. All losses were measured once and lie in a table
    (`plasticity_env.dynamic.measure_routes`), so that no model runs here. The default table comes with the package:
    `bard-llama-6x8` on plays, a manual, programs and records.

    The last texts of every kind are test texts (`test_share`); agents that learn with `texts="train"` never see them, nor
    does any number that is observed.

    ## Action Space
    `Discrete(K)`: the structure. With `probes` above 0 `Discrete(2 K)`: K + k tries structure k on the prefix, which is
    billed and shows its loss there; the episode goes on. A probe that is not allowed (of the dense structure, made before, or
    none is left) is taken for the choice of its structure and counted in `info["invalid_actions"]`.

    ## Observation Space
    `Dict`, or with `observation="flat"` one `Box` of the same numbers in this order:

    | Part | Shape | What |
    |------|-------|------|
    | `prefix` | (p,) | z-scores over the train texts: 32 projections of hidden states, loss, entropy, distance to each kind |
    | `structures` | (K, 6) | of each: share, log cost kept, mean rise, distance, probed, rise of the prefix's loss when probed |
    | `request` | (4,) | log price, share of the probes left, log batch and log tokens (with `budget="kv_cache"`) |
    | `action_mask` | (2 K,) | 1 where an action is allowed; only with probes |

    Names and bounds are in `plasticity_env.envs.route_columns`. The kind of the text is not observed. With `signals`, on a
    table that was measured with them, attention entropy, activation and fluctuation of every unit follow in `prefix`.

    ## Rewards
    A difference of potentials, in nats, as `plasticity/Heads-v1` pays: log(ppl_0 / ppl) - price * log(flops / flops_0).
    Perplexity is that of the tokens after the prefix, FLOPs are those of all tokens, with the dense prefix, the reading of it
    and the probes. A probe is paid for at once, as if the dense model went on from there; the return of an episode is the
    potential at its end. With `budget="kv_cache"` the second term is price * MiB of the request's KV cache beside the dense
    model's (the prefix is cut to what the structure reads; the loss stays that of the table's text).

    ## Starting State
    A text and a price, with `budget="kv_cache"` also batch and tokens, drawn with the seed or given in
    `reset(options={"text": 7, "flop_price": 1.0})`; any text of the table may be named.

    ## Episode End
    Terminates with the choice of a structure: after one step, or at most 1 + `probes`. Never truncates.

    ## Information
    `text` and the price; with probes `probes` and `invalid_actions`; at the end also `loss`, `flops_kept`, `structure`,
    `kind`, and the summands `quality` and `cost` of the potential.

    ## Arguments
    `table`: a `RouteTable` or a folder of one; the others are in `plasticity_env.envs.route_settings.RouteSettings`:
    ```python
    >>> import gymnasium as gym, plasticity_env
    >>> env = gym.make("plasticity/Route-v0", flop_price=(0.1, 4.0), probes=2)
    >>> envs = gym.make_vec("plasticity/Route-v0", num_envs=256, observation="flat")
    ```

    ## Version History
    * v0: first version
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 2}  # noqa: RUF012

    def __init__(
        self,
        render_mode: str | None = None,
        table: RouteTable | str | os.PathLike[str] | None = None,
        **settings: Any,
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise InputError(f"unknown render_mode {render_mode!r}: use 'ansi' or 'rgb_array'")
        daemon_ends_with_parent()
        self.render_mode = render_mode
        self.settings = RouteSettings.read(settings)
        self.board = make_board(table, self.settings)
        self.action_space = action_space(self.board)
        columns = self.board.columns
        self.observation_space = columns.flat_space() if self.settings.observation == "flat" else columns.space()
        self._episodes = RouteEpisodes(self.board, 1)
        self._table_name = {} if table is None else {"table": digest_of(self.board.table)}
        self._record: EpisodeRecord | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: Seeds the draws of text and price (and batch and tokens).
            options: May fix ``text``, the price by its argument's name, ``batch`` and ``tokens``.

        Returns:
            Observation and info.

        Raises:
            InputError: An option that is unknown or out of range.
        """
        super().reset(seed=seed)
        self._episodes.start(np.zeros(1, dtype=np.int64), [self.np_random], read_route_options(self.board, options))
        info = self._info()
        drawn = {name: info[name] for name in ("text", *self.settings.drawn)}
        self._record = EpisodeRecord(ROUTE_ID, {**self.settings.kwargs(), **self._table_name}, drawn, (), ())
        return self._observation(), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Choose a structure, or try one on the prefix.

        Returns:
            Observation, reward in nats, terminated (a structure was chosen), truncated (never), info.

        Raises:
            InputError: No such action.
        """
        self._running()
        actions = read_route_actions(self.board, action, ())[None]
        (reward,) = self._episodes.turn(actions, np.ones(1, dtype=bool)).tolist()
        assert self._record is not None
        self._record = self._record.then(actions[0], reward)
        return self._observation(), reward, bool(self._episodes.over[0]), False, self._info()

    def action_masks(self) -> np.ndarray:
        """(A,) boolean mask as sb3-contrib's MaskablePPO wants it, True = allowed."""
        allowed: np.ndarray = self._episodes.allowed()[0]
        return allowed

    def render(self) -> Any:
        """The structures in lines of text ("ansi"), or these as an (H, W, 3) uint8 array ("rgb_array")."""
        if self.render_mode is None:
            gym.logger.warn("render() without a render_mode does nothing: gym.make(..., render_mode='ansi')")
            return None
        lines = described(self._episodes)
        return lines if self.render_mode == "ansi" else text_picture(lines)

    def episode_record(self) -> EpisodeRecord:
        """The episode so far; `plasticity_env.validate` replays it (one on a table of your own with ``env=``)."""
        if self._record is None:
            raise InputError("no episode: call reset() first")
        return self._record

    # -- parts -------------------------------------------------------------------------------------------------------

    def _observation(self) -> Any:
        flat = self._episodes.flat()[0]
        return flat if self.settings.observation == "flat" else self.board.columns.shown(flat)

    def _info(self) -> dict[str, Any]:
        over = bool(self._episodes.over[0])
        said = self._episodes.final_infos() if over else self._episodes.infos()
        return {name: values[0].item() for name, values in said.items()}

    def _running(self) -> None:
        if self._record is None:
            raise gym.error.ResetNeeded("call reset() before anything else")
        if self._episodes.over[0]:
            raise gym.error.ResetNeeded("this episode is over: call reset()")


def make_board(table: RouteTable | str | os.PathLike[str] | None, settings: RouteSettings) -> RouteBoard:
    """Read a table, the package's own when None.

    Raises:
        InputError: Neither a table nor a folder of one, or settings that do not fit it.
    """
    from plasticity_env.dynamic.route_table import RouteTable  # loads torch

    if table is None or isinstance(table, str | os.PathLike):
        table = RouteTable.load(SHIPPED_TABLE if table is None else os.fspath(table))
    if not isinstance(table, RouteTable):
        raise InputError(f"table must be a RouteTable or a folder of one, got {brief(table)}")
    return RouteBoard(table, settings)


def digest_of(table: RouteTable) -> str:
    """What stands for a table in a record: a digest of its losses and FLOPs."""
    arrays = (table.loss, table.probe, np.asarray(table.flops))
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


def action_space(board: RouteBoard) -> gym.spaces.Discrete[Any]:
    """Structures, and probes of them where there are some."""
    return gym.spaces.Discrete(board.columns.structures * (2 if board.settings.probes else 1))

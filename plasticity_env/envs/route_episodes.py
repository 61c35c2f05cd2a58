"""N episodes of plasticity/Route-v0, advanced together with array operations; the single environment is the case N = 1."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from plasticity_env.common.errors import InputError
from plasticity_env.common.values import brief
from plasticity_env.envs.actions import whole_numbers
from plasticity_env.envs.route_board import RouteBoard
from plasticity_env.envs.route_columns import CHANGING, REQUEST_COLUMNS
from plasticity_env.envs.route_settings import RANGES
from plasticity_env.envs.settings import bounds, check_range

DRAWS = 4  # uniform numbers an episode: text, price, batch, tokens; always all of them, so that a fixed one changes no other
_DISTANCE, _PROBED, _RISE = CHANGING
_REQUEST = {name: index for index, name in enumerate(REQUEST_COLUMNS)}


class RouteEpisodes:
    """The state of N episodes.

    Args:
        board: Constants of the table and the settings.
        count: Number N of episodes.

    Attributes:
        text: (N,) number of each one's text in the table.
        over: (N,) boolean, True where an episode has ended (all have before they start).
        structure: (N,) the structure that was chosen; -1 before.
        probed: (N, K) boolean, which structures were tried on the prefix.
        spent: (N,) FLOPs of the probes over those of a whole text of the dense model.
        price, batch, tokens: (N,) drawn at the start.
        invalid: (N,) probes that were not allowed and were taken for choices.
        quality, cost: (N,) the summands of the potential; 0 at the start.
    """

    def __init__(self, board: RouteBoard, count: int) -> None:
        structures = board.columns.structures
        self.board, self.count = board, count
        self.text = np.zeros(count, dtype=np.int64)
        self.structure = np.full(count, -1, dtype=np.int64)
        self.over = np.ones(count, dtype=bool)
        self.probed = np.zeros((count, structures), dtype=bool)
        self.invalid = np.zeros(count, dtype=np.int64)
        self.spent, self.price, self.quality, self.cost = (np.zeros(count) for _ in range(4))
        self.batch, self.tokens = np.ones(count), np.full(count, float(board.table.tokens))
        self._row = np.zeros((1, board.columns.width), dtype=np.float32)  # what all flat observations have in common
        board.columns.parts(self._row)["structures"][...] = board.static
        self._logs = {name: np.log(bounds(getattr(board.settings, name))) for name in RANGES}

    # -- turns -------------------------------------------------------------------------------------------------------

    def start(self, rows: np.ndarray, randoms: Sequence[np.random.Generator], options: Mapping[str, Any]) -> None:
        """Start some episodes anew.

        Args:
            rows: Numbers of the episodes.
            randoms: A generator for each of them.
            options: Checked ones of the reset (`read_route_options`), for all.
        """
        drawn = np.array([random.random(DRAWS) for random in randoms]).reshape(len(rows), DRAWS)
        chosen = self.board.chosen
        self.text[rows] = options.get("text", chosen[(drawn[:, 0] * len(chosen)).astype(np.int64)])
        names = self.board.settings.drawn
        self.price[rows] = self._between(names[0], drawn[:, 1], options)
        for column, name in enumerate(names[1:], 2):
            getattr(self, name)[rows] = np.rint(self._between(name, drawn[:, column], options))
        self.structure[rows], self.over[rows], self.probed[rows], self.invalid[rows] = -1, False, False, 0
        self.spent[rows] = self.quality[rows] = self.cost[rows] = 0.0

    def _between(self, name: str, drawn: np.ndarray, options: Mapping[str, Any]) -> np.ndarray:
        low, high = np.log(bounds(options[name])) if name in options else self._logs[name]
        found: np.ndarray = np.exp(low + drawn * (high - low))
        return found

    def turn(self, actions: np.ndarray, running: np.ndarray) -> np.ndarray:
        """Take a decision in some episodes.

        Args:
            actions: (N,) whole numbers, as `read_route_actions` returns them.
            running: (N,) boolean, which take one.

        Returns:
            (N,) rewards in nats; 0 for those that rest.
        """
        board, structures = self.board, self.board.columns.structures
        before = self.quality - self.price * self.cost
        named = actions % structures
        wanted = running & (actions >= structures)
        probing = wanted & self.allowed()[np.arange(self.count), actions] if wanted.any() else wanted
        if probing.any():
            rows = np.flatnonzero(probing)
            self.probed[rows, named[rows]] = True
            self.spent[rows] += board.probe_cost[named[rows]]
            self.cost[rows] = np.log1p(self.spent[rows])  # as if the dense model went on from here
        self.invalid += wanted & ~probing
        rows = np.flatnonzero(running & ~probing)
        texts, picks = self.text[rows], named[rows]
        self.structure[rows], self.over[rows] = picks, True
        self.quality[rows] = board.quality[texts, picks]
        self.cost[rows] = board.cost(picks, self.spent[rows], self.batch[rows], self.tokens[rows])
        return np.where(running, self.quality - self.price * self.cost - before, 0.0)

    # -- what is seen --------------------------------------------------------------------------------------------------

    def allowed(self) -> np.ndarray:
        """(N, K) boolean, or (N, 2 K) where there are probes: every structure, and probes that are left of untried ones."""
        free = np.ones_like(self.probed)
        if not self.board.settings.probes:
            return free
        probes = ~self.probed & (self.probes < self.board.settings.probes)[:, None]
        probes[:, 0] = False  # the prefix runs dense in any case
        return np.concatenate([free, probes], 1)

    @property
    def probes(self) -> np.ndarray:
        """(N,) probes that were made."""
        return self.probed.sum(1)

    def flat(self) -> np.ndarray:
        """(N, D) float32 flat observations, an array of its own."""
        board, settings = self.board, self.board.settings
        seen = np.repeat(self._row, self.count, 0)
        parts = board.columns.parts(seen)
        parts["prefix"][...] = board.prefix[self.text]
        parts["structures"][..., _DISTANCE] = board.distance[self.text]
        request = parts["request"]
        request[:, _REQUEST["log_price"]] = np.clip(np.log(self.price), *REQUEST_COLUMNS["log_price"])
        if settings.probes:
            parts["structures"][..., _PROBED] = self.probed
            parts["structures"][..., _RISE] = np.where(self.probed, board.probe_rise[self.text], 0.0)
            request[:, _REQUEST["probes_left"]] = 1.0 - self.probes / settings.probes
            parts["action_mask"][...] = self.allowed()
        if settings.budget == "kv_cache":
            request[:, _REQUEST["log_batch"]] = np.log(self.batch)
            request[:, _REQUEST["log_tokens"]] = np.log(self.tokens)
        return seen

    def infos(self) -> dict[str, np.ndarray]:
        """What may be said of episodes at any time, (N,) each."""
        said = {"text": self.text.copy(), self.board.settings.price_name: self.price.copy()}
        if self.board.settings.probes:
            said |= {"probes": self.probes, "invalid_actions": self.invalid.copy()}
        if self.board.settings.budget == "kv_cache":
            said |= {"batch": self.batch.copy(), "tokens": self.tokens.copy()}
        return said

    def final_infos(self) -> dict[str, np.ndarray]:
        """What is said of episodes that have ended, (N,) each; the others' entries mean nothing."""
        board, picks = self.board, self.structure
        kept = board.kept[picks] + self.spent
        said = {
            **self.infos(),
            "loss": np.asarray(board.table.loss)[self.text, picks].astype(np.float64),
            "flops_kept": kept,
            "structure": picks.copy(),
            "kind": np.asarray(board.table.kinds)[np.asarray(board.table.kind)[self.text]],
            "quality": self.quality.copy(),
            "cost": -self.price * self.cost,
        }
        if board.settings.budget == "kv_cache":
            said["kv_mib"] = self.batch * self.tokens * board.token_mib[picks]
        return said


def read_route_options(board: RouteBoard, options: Any) -> dict[str, Any]:
    """Options of a reset, checked.

    Raises:
        InputError: Something that is no mapping, an unknown option, or a value out of range.
    """
    if options is not None and not isinstance(options, Mapping):
        raise InputError(f"reset options must be a mapping of names to values, got {brief(options)}")
    given, known = dict(options or {}), ("text", *board.settings.drawn)
    if set(given) - set(known):
        raise InputError(
            f"unknown reset option {min(map(str, set(given) - set(known)))!r}: known are {', '.join(known)}"
        )
    for name, value in given.items():
        if name != "text":
            check_range(name, value, 0.0, RANGES[name])
        elif isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < len(board.table):
            raise InputError(f"text must be a whole number from 0 to {len(board.table) - 1}, got {brief(value)}")
        if name in ("batch", "tokens") and not all(math.floor(end) == end for end in bounds(value)):
            raise InputError(f"{name} must be a whole number, or a range of two, got {brief(value)}")
    return given


def read_route_actions(board: RouteBoard, actions: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Actions as whole numbers in an array.

    Raises:
        InputError: Others than there are structures and probes.
    """
    most = board.columns.structures * (2 if board.settings.probes else 1) - 1
    return whole_numbers(actions, shape, most, "a structure, or K + k to try structure k where there are probes")

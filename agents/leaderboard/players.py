"""Players by name: a controller, a saved one, a function that makes one, or a search; and how many rounds it plays."""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plasticity_env import controllers
from plasticity_env.common.errors import InputError
from plasticity_env.common.moved import moved
from plasticity_env.common.values import user_path
from plasticity_env.controllers import ANNController, Controller
from plasticity_env.controllers.planners.planner import Planner, is_planner, make_planner
from plasticity_env.controllers.shipped import FORMER, LAB
from plasticity_env.controllers.tuned_rule import NAME as TUNED
from plasticity_env.controllers.tuned_rule import tuned_options
from plasticity_env.signals.scores import SCORES
from plasticity_env.signals.signal import SIGNALS

ROUNDS = 4
SINGLE_SCORES, OWN_SCORES = (
    tuple(name for name, score in SCORES.items() if score.origin == origin) for origin in ("classic", "own")
)
RULE_ROUNDS = (1, 4)
RULES = "rules"  # stands for all of these scores, each in one and in four rounds
SAME_AS = {  # fingerprint -> the one in cells of before a move: the same decisions, which five of those cells were replayed for
    "53f805f990c2": "fe9bf52ac7ce",  # agents.studies.ablations around ann (176413d258ab)
}


@dataclass(frozen=True)
class Player:
    """Who plays, and in how many rounds.

    Attributes:
        name: One of `controllers.names()`, a planner's, the folder of a saved controller, or ``package.module``.
        option: What follows a colon: of ``ann`` which, of ``constant`` the edit, of a planner its size, of a module the function.
        rounds: Decisions an episode.
    """

    name: str
    option: str = ""
    rounds: int = ROUNDS

    @property
    def text(self) -> str:
        """Canonical form, as cells hold it."""
        return f"{self.name}{':' + self.option if self.option else ''}@{self.rounds}"

    @property
    def is_entry_point(self) -> bool:
        """Whether it is ``package.module:function``."""
        return bool(self.option) and "." in self.name and not Path(self.name).exists()

    def make(self) -> Controller | Planner:
        """Make a fresh controller or planner.

        Raises:
            InputError: No player has this name, or this one cannot be used.
        """
        if self.is_entry_point:
            return _call(self.name, self.option)
        text = f"{self.name}:{self.option}" if self.option else self.name
        if is_planner(self.name):
            return make_planner(text)
        if self.option and self.name not in controllers.CONTROLLERS:
            raise InputError(f"player {self.text!r}: {self.name!r} takes no option after a colon")
        return controllers.make(text)


def read_player(text: str) -> Player:
    """Read ``NAME``, ``NAME@ROUNDS``, ``NAME:OPTION`` or ``NAME:OPTION@ROUNDS``.

    Raises:
        InputError: No name, or rounds below 1.
    """
    name, at, rounds = text.strip().rpartition("@")
    if at and not rounds.isdecimal() and not Path(text.strip()).exists():
        raise InputError(f"player {text!r}: what follows @ must be a whole number of rounds, for example fisher@4")
    if not at or not rounds.isdecimal():
        name, rounds = text.strip(), str(ROUNDS)
    if not name or int(rounds) < 1:
        raise InputError(f"player {text!r} must be NAME or NAME@ROUNDS with at least one round, for example fisher@4")
    if user_path(name).is_dir():
        return Player(str(user_path(name)).rstrip("/"), "", int(rounds))
    name, _, option = name.partition(":")
    return Player(moved(name) if option else name, option, int(rounds))


def current_text(text: str) -> str:
    """The canonical form of a player today, where a cell was played under another one.

    Args:
        text: Text of the player in the cell. A function whose module has moved since is called by its new module, and a
            network that shipped then (``ann:tokens``) by its folder.
    """
    name, _, rounds = text.rpartition("@")
    kind, _, option = name.partition(":")
    if kind == "ann" and option in FORMER:
        return f"{LAB}/{option}@{rounds}"
    return f"{moved(kind)}:{option}@{rounds}" if option else text


def read_players(texts: Iterable[str]) -> list[Player]:
    """Read several, each once; ``rules`` stands for every score in one and in four rounds.

    Raises:
        InputError: If a name is no player (see `read_player`).
    """
    rules = [Player(score, "", rounds) for score in (*SINGLE_SCORES, *OWN_SCORES) for rounds in RULE_ROUNDS]
    found = [player for text in texts for player in (rules if text == RULES else [read_player(text)])]
    return list(dict.fromkeys(found))


def fingerprint(player: Player, maker: Controller | Planner) -> str:
    """Twelve hexadecimal digits of what a player's name does not tell, so that a new version is played anew.

    Of a network its weights, of a tuned rule its thresholds, of an entry point its module, its class's module and the network
    that it wraps, of what a user registered the files that define it; empty for other rules and for searches.
    """
    parts: list[bytes] = []
    network = getattr(maker, "_inner", maker)
    if isinstance(network, ANNController):
        parts.append(repr(network.network.config.to_json()).encode())
        for name, value in sorted(network.network.state_dict().items()):
            parts.append(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    if player.is_entry_point:
        parts += map(_code, dict.fromkeys((player.name, type(maker).__module__)))
    else:
        parts += [_source(part) for part in _parts(player, maker) if not part.__module__.startswith("plasticity_env.")]
    if player.name == TUNED:
        parts.append(json.dumps(tuned_options(), sort_keys=True).encode())
    digest = hashlib.sha256(b"".join(parts)).hexdigest()[:12] if parts else ""
    return SAME_AS.get(digest, digest)


def _code(module: str) -> bytes:
    """A module's source; of one of this package without imports and docstrings, which change when files move."""
    source = Path(inspect.getfile(importlib.import_module(module))).read_bytes()
    if module.partition(".")[0] != "plasticity_env":
        return source
    passed: set[int] = set()  # numbers of lines
    for node in ast.walk(ast.parse(source)):
        left_out: ast.stmt | None = node if isinstance(node, ast.Import | ast.ImportFrom) else None
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            left_out = node.body[0]
        if left_out is not None:
            passed |= set(range(left_out.lineno, (left_out.end_lineno or left_out.lineno) + 1))
    lines = source.decode().splitlines()
    return "\n".join(line for number, line in enumerate(lines, 1) if line.strip() and number not in passed).encode()


def _parts(player: Player, maker: Controller | Planner) -> list[Any]:
    """The class that decides, and the formulas of its score and of the signals that it reads."""
    formula = SCORES[player.name].formula if player.name in SCORES else None
    return [type(maker), *filter(None, [formula]), *(SIGNALS[name].compute for name in getattr(maker, "signals", ()))]


def _source(part: Any) -> bytes:
    """The file that defines a class or function; anew each time where there is none, as in an interactive session."""
    try:
        return Path(inspect.getfile(part)).read_bytes()
    except (OSError, TypeError):
        return secrets.token_bytes(16)


def _call(module: str, function: str) -> Controller | Planner:
    try:
        made = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError, TypeError, ValueError, SyntaxError) as error:
        raise InputError(
            f"no controller at {module}:{function} ({error}): give package.module:function, a function without arguments "
            "in an installed package or in a folder of PYTHONPATH"
        ) from error
    if not isinstance(made, Controller | Planner):
        raise InputError(f"{module}:{function} returned {type(made).__name__}, not a controllers.Controller")
    return made

"""Submissions: their code plays in a process of its own, and only its actions come back, to be replayed before they count.

The board's own process never imports a submission. It replays every episode from the actions, compares each reward with the
claimed one (`plasticity_env.validate`), and measures the test text itself.

``python -m plasticity_env.agents.leaderboard.submissions`` is the process that plays: a `Request` as JSON on standard
input, the answer to the file that it names.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from plasticity_env.agents.leaderboard.board_cells import Cell
from plasticity_env.agents.leaderboard.board_rules import Rules
from plasticity_env.agents.leaderboard.players import Player, fingerprint, read_player
from plasticity_env.agents.leaderboard.playing import Table
from plasticity_env.agents.leaderboard.workers import table_of
from plasticity_env.common.arguments import fill, plain
from plasticity_env.common.errors import InputError
from plasticity_env.common.files import write_text
from plasticity_env.controllers import Controller
from plasticity_env.controllers.ann import CONFIG, WEIGHTS
from plasticity_env.envs.observation import GLOBAL_FEATURES, HEAD_FEATURES
from plasticity_env.envs.replay import EpisodeRecord, validate


@dataclass(frozen=True)
class Request:
    """What a submission is asked to play.

    Attributes:
        player: Name of the player.
        rules: Rules of the board, as a mapping.
        shares, seeds: Shares and seeds to play.
        known: [fingerprint, share, seed] of cells that are there.
        answer: File for the episodes.
    """

    player: str
    rules: dict[str, Any]
    shares: list[float]
    seeds: int
    known: list[list[Any]]
    answer: str


def read_submission(text: str) -> Player:
    """A player of a submission: a saved controller's folder, one of its two files, or ``package.module:function``.

    Raises:
        InputError: Something else, a saved controller that does not fit the environment, or a function that cannot be
            imported.
    """
    player = read_player(text)
    if Path(player.name).name in (CONFIG, WEIGHTS) and not player.option:
        player = replace(player, name=str(Path(player.name).parent))
    if Path(player.name).is_dir():
        player.make()  # weights and JSON, no code: what does not fit is said before anything is played
    elif not player.is_entry_point:
        raise InputError(f"submission {text!r} is neither the folder of a saved controller nor package.module:function")
    else:
        _check_entry_point(player)
    return player


def _check_entry_point(player: Player) -> None:
    """Refuse a function that cannot be imported; asked in a process of its own, as all code of others runs."""
    look = "import importlib, sys; getattr(importlib.import_module(sys.argv[1]), sys.argv[2])"
    asked = subprocess.run([sys.executable, "-c", look, player.name, player.option], capture_output=True, text=True)
    if asked.returncode:
        reason = (asked.stderr.strip().splitlines() or [f"exit code {asked.returncode}"])[-1]
        raise InputError(f"submission {player.text!r} cannot be imported ({reason}): give package.module:function")


def play_submission(
    player: Player, rules: Rules, shares: tuple[float, ...], seeds: int, known: list[list[Any]]
) -> Iterator[Cell]:
    """Cells of a submission that are not known, each replayed here.

    Args:
        player: Player as `read_submission` returns it.
        rules: Rules of the board.
        shares, seeds: Shares and seeds to play.
        known: [fingerprint, share, seed] of cells that are there.

    Raises:
        InputError: The submission failed, cheated or does not fit; the sentence says which.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        request = Request(player.text, plain(rules), list(shares), seeds, known, str(answer))
        done = subprocess.run(
            [sys.executable, "-m", "plasticity_env.agents.leaderboard.submissions"],
            input=json.dumps(asdict(request)),
            capture_output=True,
            text=True,
        )
        if not answer.is_file():
            reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise InputError(f"submission {player.text!r} failed while it played: {reason[:300]}")
        found = json.loads(answer.read_text(encoding="utf-8"))
    if "error" in found:
        raise InputError(f"submission {player.text!r}: {found['error']}")
    table = table_of(rules)
    for episode in found["episodes"]:
        record = _record(episode["record"])
        yield replay(table, player, found["fingerprint"], episode["share"], episode["seed"], record, episode["seconds"])


def replay(
    table: Table, player: Player, fingerprint: str, share: float, seed: int, record: EpisodeRecord, seconds: float
) -> Cell:
    """The cell of an episode that someone else played.

    Raises:
        InputError: If it is not an episode of this board, share and seed, or earns other rewards than it claims.
    """
    env, options = table.env(player.rounds), table.options(share, seed)
    env.reset(seed=seed, options=options)
    mine = env.episode_record()
    for name in ("env_id", "kwargs", "options"):
        if json.loads(json.dumps(getattr(record, name))) != json.loads(json.dumps(getattr(mine, name))):
            raise InputError(f"submission {player.text!r}: its episode at {share:g}, seed {seed} has other {name}")
    if len(record.actions) != player.rounds:
        raise InputError(
            f"submission {player.text!r}: its episode at {share:g}, seed {seed} has {len(record.actions)} actions, "
            f"not {player.rounds}"
        )
    validate(record, env=env)
    masks = table.masks_of(player.rounds, options, record.actions)  # known by now: nothing is measured again
    seen = [torch.ones_like(masks[-1]), *masks[:-1]]  # the dense model, and what all decisions but the last lead to
    bill = table.bill(len({mask.numpy().tobytes() for mask in seen}))
    return replace(table.score(player, fingerprint, share, seed, masks, bill, seconds), validated=True)


def _record(data: dict[str, Any]) -> EpisodeRecord:
    actions = tuple(tuple(float(score) for score in action) for action in data["actions"])
    rewards = tuple(float(reward) for reward in data["rewards"])
    return EpisodeRecord(data["env_id"], data["kwargs"], data["options"], actions, rewards)


def _play(request: Request) -> dict[str, Any]:
    """Play in the submission's process, and return episodes and fingerprint, or what is wrong in a sentence."""
    try:
        player = read_player(request.player)
        maker = player.make()
        if not isinstance(maker, Controller):
            raise InputError("a search reads the environment itself: a submission must be a controller")
        digest, table = fingerprint(player, maker), Table(fill(Rules(), request.rules))
        known = {(print_, share, seed) for print_, share, seed in request.known}
        episodes = []
        for seed in range(request.seeds):
            for share in request.shares:
                if (digest, share, seed) not in known:
                    episodes.append({"share": share, "seed": seed, **_episode(table, player, maker, share, seed)})
    except InputError as error:
        return {"error": str(error)}
    return {"fingerprint": digest, "episodes": episodes}


def _episode(table: Table, player: Player, controller: Controller, share: float, seed: int) -> dict[str, Any]:
    env, started = table.env(player.rounds), time.perf_counter()
    observation, _ = env.reset(seed=seed, options=table.options(share, seed))
    controller.reset(seed)
    for _ in range(player.rounds):
        try:
            action = controller.act(observation)
        except KeyError as error:
            if error.args and error.args[0] in {*HEAD_FEATURES, *GLOBAL_FEATURES, *observation}:
                raise
            raise InputError(
                f"it reads {error.args[0]!r}, which this version's observation lacks: what it holds is listed in "
                "plasticity_env.HEAD_FEATURES and GLOBAL_FEATURES"
            ) from error
        observation, *_ = env.step(action)
    return {"record": asdict(env.episode_record()), "seconds": time.perf_counter() - started}


if __name__ == "__main__":
    asked = Request(**json.load(sys.stdin))
    write_text(Path(asked.answer), json.dumps(_play(asked)))

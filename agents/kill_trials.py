"""Kills of long programs: each is ended in the middle, run again, and must end as one that was never killed, bit for bit.

Programs run in processes of their own that are forked from one in which everything is imported already, so that a trial takes
seconds. A trial waits until a program has something to go on from, lets it work on for a time that is drawn with the seed, and
ends it by SIGKILL (every fourth time by SIGTERM).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from plasticity_env.agents.kill_programs import PRELOADED, PROGRAMS, Program
from plasticity_env.common.arguments import check_counts
from plasticity_env.common.cli import words
from plasticity_env.common.errors import InputError, unknown

CLOCKS = ("seconds", "time/sps", "machine")  # what two runs need not have in common


@dataclass(frozen=True)
class KillConfig:
    """Arguments of the kills."""

    programs: str = ",".join(PROGRAMS)
    """which programs, separated by commas"""
    kills: int = 20
    """number of kills; the programs take turns"""
    seed: int = 0
    """seed that draws the moments"""
    output_dir: Path = Path("runs/kill_test")
    """a new folder"""

    def __post_init__(self) -> None:
        check_counts(self, kills=1, seed=0)
        for name in words(self.programs):
            if name not in PROGRAMS:
                raise unknown("program", name, PROGRAMS)
        if not words(self.programs):
            raise InputError("programs is empty: name at least one")


@dataclass(frozen=True)
class Trial:
    """One kill.

    Attributes:
        program: Name.
        signal: Signal that ended it.
        after: Seconds since it had something to go on from.
        whole: What that time was in the run that was not killed, to its end.
        wrong: What differs in the end; empty where nothing does.
    """

    program: str
    signal: str
    after: float
    whole: float
    wrong: tuple[str, ...]


def run(config: KillConfig) -> None:
    """Kill programs, let them go on, and print a line a kill and the tally; exits 1 where a run came to something else.

    Raises:
        InputError: If a trial fails as in `run_trials`, or the folder is in use.
    """
    if config.output_dir.exists() and any(config.output_dir.iterdir()):
        raise InputError(f"{str(config.output_dir)!r} is not empty: name a new --output_dir")
    trials = []
    for trial in run_trials(config):
        trials.append(trial)
        said = "equal" if not trial.wrong else "DIFFERS: " + ", ".join(trial.wrong)
        print(f"{trial.program:<12} {trial.signal} {trial.after:5.2f} s of {trial.whole:5.2f} s in: {said}", flush=True)
    equal = sum(not trial.wrong for trial in trials)
    programs = len({trial.program for trial in trials})
    print(
        f"{equal} of {len(trials)} killed runs of {programs} programs went on and ended bit for bit as one that was never killed"
    )
    if equal < len(trials):
        sys.exit(1)


def run_trials(config: KillConfig) -> Iterator[Trial]:
    """Kill programs and let them go on.

    Raises:
        InputError: A program failed without being killed, or always ends before it can be killed.
    """
    names, draw = words(config.programs), random.Random(config.seed)
    whole: dict[str, float] = {}
    for number in range(config.kills):
        name = names[number % len(names)]
        program, folder = PROGRAMS[name], config.output_dir
        if name not in whole:
            whole[name] = _uninterrupted(program, folder / name)
        how = signal.SIGTERM if number % 4 == 3 else signal.SIGKILL
        place = folder / f"{name}_{number}"
        after = _killed(program, place, how, draw, whole[name])
        wrong = [f"exit code {code}"] if (code := _finish(_start(program.line(place, resume=True), place))) else []
        wrong += differences(program, folder / name, place)
        yield Trial(name, how.name, after, whole[name], tuple(wrong))


def differences(program: Program, there: Path, here: Path) -> list[str]:
    """What differs between the results in two folders, and what a kill has left half-written in the second."""
    found = {place: _results(program, place) for place in (there, here)}
    names = dict.fromkeys([*found[there], *found[here]])
    wrong = [name for name in names if not _same(found[there].get(name), found[here].get(name))]
    left = [path for path in here.rglob(".*") if path.suffix in (".tmp", ".old", ".lock")]
    return wrong + [f"{path.relative_to(here)} is left" for path in left] + ([] if names else ["no results"])


def _uninterrupted(program: Program, place: Path) -> float:
    """Run a program to its end; returns the seconds from when it had something to go on from."""
    process = _start(program.line(place), place)
    _wait_until_ready(program, process, place)
    began = time.perf_counter()
    code = _finish(process)
    if code:
        raise InputError(f"a program that nobody killed ended with exit code {code}: see {str(_log(place))!r}")
    return time.perf_counter() - began


def _killed(program: Program, place: Path, how: signal.Signals, draw: random.Random, whole: float) -> float:
    """Start a program and end it in the middle; returns the seconds since it had something to go on from."""
    for attempt in range(8):
        process = _start(program.line(place), place)
        _wait_until_ready(program, process, place)
        wait = draw.uniform(0, whole * 0.9**attempt)
        process.join(wait)
        if process.is_alive():
            assert process.pid is not None
            os.kill(process.pid, how)
            if _finish(process) in (-how, 128 + how):
                return wait
        shutil.rmtree(place)  # it was over already
    raise InputError(f"{place.name} always ended before it was killed")


def _start(line: list[str], place: Path) -> ForkServerProcess:
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    place.mkdir(parents=True, exist_ok=True)
    process = context.Process(target=_work, args=(line, str(_log(place))))
    process.start()
    return process


def _work(line: list[str], log: str) -> None:
    """The program, in its own process."""
    import torch

    from plasticity_env.agents.commands.command_table import find_command

    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    torch.set_num_threads(1)
    os.environ["WANDB_MODE"] = "disabled"
    sys.argv = ["plasticity", *line]
    find_command(line[0]).run(line[1:])


def _log(place: Path) -> Path:
    return place.with_name(f"{place.name}.log")


def _finish(process: ForkServerProcess) -> int:
    process.join()
    return process.exitcode or 0


def _wait_until_ready(program: Program, process: ForkServerProcess, place: Path) -> None:
    ready = place / program.ready
    while process.is_alive() and not (ready.is_file() and ready.stat().st_size):
        time.sleep(0.005)


def _results(program: Program, place: Path) -> dict[str, Any]:
    files = sorted({path for pattern in program.results for path in place.glob(pattern)})
    return {str(path.relative_to(place)): _read(path) for path in files}


def _read(path: Path) -> Any:
    """What a file says, without clocks."""
    import torch
    from safetensors.torch import load_file

    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix == ".pt":
        return torch.load(path, weights_only=True)
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines() if path.suffix == ".jsonl" else [text]
    return [_timeless(json.loads(line)) for line in lines]


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(entry) for key, entry in value.items() if key not in CLOCKS}
    return [_timeless(entry) for entry in value] if isinstance(value, list) else value


def _same(one: Any, other: Any) -> bool:
    """Equality that looks into tensors, and takes a NaN for equal to a NaN."""
    import torch

    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other) or (one != one and other != other)

"""Playing acts: each command line in a process of its own, rows kept as they come, a row that is there not played again."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from plasticity_env.agents.studies.documents.act_row import ActRow, act_rows, figures
from plasticity_env.agents.studies.documents.acts import Act
from plasticity_env.common.errors import InputError

Run = Callable[[Sequence[str]], None]


def run_command(words: Sequence[str]) -> None:
    """Run a sub-command as a user does.

    Raises:
        InputError: If it fails; the sentence ends with what it said last.
        KeyboardInterrupt: If it was stopped.
    """
    done = subprocess.run(
        [sys.executable, "-m", "plasticity_env", *words], capture_output=True, text=True, encoding="utf-8", check=False
    )
    if done.returncode == 130:
        raise KeyboardInterrupt
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise InputError(f"plasticity {' '.join(words)} failed (code {done.returncode}): {said}")


def play_acts(
    acts: Sequence[Act], output: Path, folder: Path, keep: bool = False, run: Run = run_command
) -> Iterator[tuple[ActRow, bool]]:
    """Play what a file does not hold yet, and append each row as it is done.

    Args:
        acts: Acts to play.
        output: JSON lines of finished rows.
        folder: Folder that commands write into; an act that was cut begins anew.
        keep: Leave what the commands wrote.
        run: Runs the words of a command line.

    Yields:
        Each row, and whether it was there already.

    Raises:
        InputError: A command failed, or the file holds something else.
    """
    file = act_rows(output)
    known = {(row.act, row.model, row.seed): row for row in file.read()}
    for act in acts:
        for seed in range(act.seeds):
            found = known.get((act.name, act.model, seed))
            if found is not None:
                yield found, True
                continue
            place = folder / f"{re.sub(r'[^a-z0-9]+', '_', act.name)}_{seed}"
            row = _play(act, seed, place, run)
            file.append(vars(row))
            if not keep:
                shutil.rmtree(place)
            yield row, False


def _play(act: Act, seed: int, place: Path, run: Run) -> ActRow:
    if place.exists():
        shutil.rmtree(place)  # of a play that was cut
    place.mkdir(parents=True)
    commands, begun = act.commands(str(place), seed), time.perf_counter()
    for words in commands:
        run(words)
    seconds = time.perf_counter() - begun
    written = [f"plasticity {' '.join(words)}".replace(str(place), "FOLDER") for words in commands]
    return ActRow(act.name, act.asked, act.model, seed, written, seconds=seconds, **figures(commands[-1], place))

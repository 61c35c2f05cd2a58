"""All cells of the study: those that a file lacks are played and appended, so that a run can be cut and goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from plasticity_env.agents.studies.adaptive.study_arms import Arm, make_arm
from plasticity_env.agents.studies.adaptive.study_cells import Cell, cell_file
from plasticity_env.agents.studies.adaptive.study_playing import play
from plasticity_env.agents.studies.adaptive.study_setting import HOME, SHIFT, Setting
from plasticity_env.common.at_work import at_work_on
from plasticity_env.common.errors import InputError, check_least
from plasticity_env.data.text import TextSplits, load_text
from plasticity_env.model.loading import LoadedModel

CONTROL = "control"


def load_texts(
    loaded: LoadedModel, setting: Setting, dataset: str, shift_dataset: str | None = None, shift_name: str | None = None
) -> dict[str, TextSplits]:
    """The texts by domain, tokenised by the model's own tokenizer.

    Args:
        loaded: The model.
        setting: Says which domains are read.
        dataset: The text that the model knows.
        shift_dataset: The other one.
        shift_name: What that is called in tables; its own name when None.

    Raises:
        InputError: Nothing of that name, a test split shorter than what is asked for, or stages that want another text.
    """
    if (SHIFT in setting.path) != (shift_dataset is not None):
        raise InputError(
            f"stages {setting.stages!r} and shift_dataset {shift_dataset!r} do not fit: name {SHIFT!r} among the stages where a "
            "second text is given, and only there"
        )
    names = {HOME: dataset} | ({} if shift_dataset is None else {SHIFT: shift_dataset})
    texts = {domain: load_text(name, loaded.tokenizer, block_size=setting.block_size) for domain, name in names.items()}
    for text in texts.values():
        if len(text.blocks("test")) < setting.test_blocks:
            raise InputError(
                f"test_blocks {setting.test_blocks} is more than the {len(text.blocks('test'))} blocks of the test split of "
                f"{text.name!r}: ask for fewer or use a longer text"
            )
    if shift_name is not None and SHIFT in texts:
        texts[SHIFT].name = shift_name
    return texts


def make_arms(names: Sequence[str], setting: Setting) -> list[Arm]:
    """The control arm, and those that are asked for.

    Raises:
        InputError: No such arm.
    """
    return [make_arm(name, setting) for name in dict.fromkeys([CONTROL, *names])]


def run_study(
    loaded: LoadedModel,
    texts: Mapping[str, TextSplits],
    setting: Setting,
    path: Path,
    *,
    arms: Sequence[str],
    seeds: int,
) -> Iterator[tuple[Cell, bool]]:
    """Play the cells that a file does not hold yet, and append each as it finishes.

    The control arm is played for every seed, asked for or not: the other arms' observations refer to it.

    Args:
        loaded: The model, dense; left so.
        texts: Texts, by domain.
        setting: What all cells share.
        path: JSON lines file of cells.
        arms: Names, see `plasticity_env.agents.studies.adaptive.ARMS`.
        seeds: Number of seeds.

    Yields:
        Each cell, and whether it was there already.

    Raises:
        InputError: No seeds, no such arm, a setting that does not fit the model or its texts, or another process at work on the
            file; nothing is written.
    """
    check_least("seeds", seeds, 1)
    made = make_arms(arms, setting)
    file = cell_file(path)
    named = tuple(sorted((domain, text.name) for domain, text in texts.items()))
    with at_work_on(path):
        done = {cell.key: cell for cell in file.read()}
        for seed in range(seeds):
            control = None
            for arm in made:
                known = done.get(((loaded.name, setting, named), arm.name, arm.fingerprint, seed))
                cell = known or play(arm, loaded, texts, setting, seed, control)
                if known is None:
                    file.append(asdict(cell))
                control = cell if arm.name == CONTROL else control
                yield cell, known is not None

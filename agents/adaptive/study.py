"""All cells of the study: those that a file lacks are played and appended, so that a run can be cut and goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from agents.adaptive.arms import make_arm
from agents.adaptive.cells import HOME, SHIFT, Cell, Setting, cell_file
from agents.adaptive.playing import play
from plasticity_env.errors import InputError
from plasticity_env.loading import LoadedModel
from plasticity_env.text import TextSplits, load_text

CONTROL = "control"


def load_texts(
    loaded: LoadedModel, dataset: str, shift_dataset: str | None, block_size: int, test_blocks: int
) -> dict[str, TextSplits]:
    """The texts by domain, tokenised by the model's own tokenizer.

    Raises:
        InputError: Nothing of that name, or a test split shorter than what is asked for.
    """
    names = {HOME: dataset} | ({SHIFT: shift_dataset} if shift_dataset else {})
    texts = {domain: load_text(name, loaded.tokenizer, block_size=block_size) for domain, name in names.items()}
    for text in texts.values():
        if len(text.blocks("test")) < test_blocks:
            raise InputError(
                f"test_blocks {test_blocks} is more than the {len(text.blocks('test'))} blocks of the test split of "
                f"{text.name!r}: ask for fewer or use a longer text"
            )
    return texts


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
        texts: By domain.
        setting: What all cells share.
        path: JSON lines.
        arms: Names, see `agents.adaptive.ARMS`.
        seeds: How many.

    Yields:
        Each cell, and whether it was there already.

    Raises:
        InputError: No seeds, no such arm, or a setting that does not fit the model or its texts; nothing is written.
    """
    if seeds < 1:
        raise InputError(f"seeds must be at least 1, got {seeds}")
    made = [make_arm(name, setting) for name in dict.fromkeys([CONTROL, *arms])]
    file = cell_file(path)
    done = {cell.key: cell for cell in file.read()}
    for seed in range(seeds):
        control = None
        for arm in made:
            known = done.get((loaded.name, setting, arm.name, seed))
            cell = known or play(arm, loaded, texts, setting, seed, control)
            if known is None:
                file.append(asdict(cell))
            control = cell if arm.name == CONTROL else control
            yield cell, known is not None

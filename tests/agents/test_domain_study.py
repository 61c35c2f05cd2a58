"""The study of texts that are learnt one after another."""

from pathlib import Path

import pytest

from plasticity_env import InputError
from plasticity_env.agents.studies.domains.domain_arms import ARMS, LOW_RANK, OWN, REPLAY, UNITS, Cell
from plasticity_env.agents.studies.domains.domain_settings import HOME, Setting
from plasticity_env.agents.studies.domains.domain_study import DomainStudyConfig, cell_file, main

TINY = Setting(
    texts=("mixed:table",),
    steps=3,
    batch_size=2,
    length=32,
    calibration_blocks=8,
    test_blocks=8,
    held_blocks=48,
    window=2,
    false_alarms=0.1,
)


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cell]:
    output = tmp_path_factory.mktemp("domains") / "cells.jsonl"
    main(DomainStudyConfig(seeds=1, output=output, setting=TINY))
    return {cell.arm: cell for cell in cell_file(output).read()}


def test_all_arms_are_played(cells: dict[str, Cell]) -> None:
    assert list(cells) == list(ARMS)


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm not in REPLAY])
def test_domains_forget_nothing_to_the_bit(cells: dict[str, Cell], arm: str) -> None:
    assert cells[arm].end == cells[arm].learnt
    assert cells[arm].forgotten == 0


def test_what_is_trained_moves_the_losses(cells: dict[str, Cell]) -> None:
    for arm, cell in cells.items():
        assert cell.end["mixed:table"] < cell.before["mixed:table"], arm
    assert cells["full"].end[HOME] != cells["full"].before[HOME]
    assert cells[OWN].end[HOME] == pytest.approx(cells[OWN].before[HOME], abs=1e-6)


def test_a_fixed_state_is_never_better_than_the_best_end(cells: dict[str, Cell]) -> None:
    for cell in cells.values():  # with one new text the best fixed state is the end or the start
        assert cell.fixed == pytest.approx(min(cell.end["mixed:table"], cell.before["mixed:table"]), abs=1e-6)


def test_flops_and_numbers_follow_the_parts(cells: dict[str, Cell]) -> None:
    assert cells["full"].home_flops == cells[OWN].new_flops == 1
    assert cells[UNITS].home_flops < 1
    assert cells[UNITS].new_flops == pytest.approx(1, abs=1e-6)
    assert cells[OWN].parameters < cells[LOW_RANK].parameters < cells["full"].parameters
    assert cells[LOW_RANK].parameters == pytest.approx(cells[UNITS].parameters, rel=0.1)
    assert cells["full"].named is None
    assert cells[OWN].named is not None


def test_finished_cells_are_not_played_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = DomainStudyConfig(seeds=1, arms="full", output=tmp_path / "cells.jsonl", setting=TINY)
    main(config)
    first = config.output.read_text()
    main(config)
    assert config.output.read_text() == first
    assert capsys.readouterr().out.count("seed 0, full") == 1


def test_an_unknown_arm_is_one_sentence() -> None:
    with pytest.raises(InputError, match="unknown arm 'fulll'"):
        DomainStudyConfig(arms="fulll")

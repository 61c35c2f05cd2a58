"""The data set of a leaderboard says what its cells say, and keeps test losses apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from plasticity_env import InputError
from plasticity_env.agents.leaderboard.board_cells import Cell, cell_file, row
from plasticity_env.agents.tabular.cell_rows import write_cells
from plasticity_env.dynamic.route_table import RouteTable, shipped_tables
from plasticity_env.envs.route import SHIPPED_TABLE
from plasticity_env.envs.route_split import split_texts
from plasticity_env.tabular import CellTable, open_routes, open_table
from tests.agents.leaderboard.fake import BOARD, cells

PLAYERS = {"good@4": 0.5, "fisher@4": 1.0, "random@1": 2.0}


def written(found: list[Cell], folder: Path) -> CellTable:
    file = cell_file(folder / "cells.jsonl")
    for cell in found:
        file.append(row(cell))
    write_cells(folder / "cells.jsonl", folder / "table")
    return open_table(folder / "table")


@pytest.fixture
def played() -> list[Cell]:
    return cells(PLAYERS)


def test_every_cell_is_found_as_it_was_played(played: list[Cell], tmp_path: Path) -> None:
    table = written(played, tmp_path)
    assert len(table) == len(played)
    for cell in played:
        found = table.query("toy", "text", cell.player, cell.share, cell.seed)
        assert found.mask == "/".join("".join(map(str, layer)) for layer in cell.kept)
        assert found.rounds == tuple("/".join(mask) for mask in cell.rounds)
        assert (found.flops_kept, found.evaluations, found.seconds) == (cell.flops_kept, 12, 0.5)
        assert found.reward_loss is None  # the leaderboard's file has none
        final = table.final(found)
        assert final.losses == pytest.approx(cell.test_losses, rel=1e-6)
        assert final.rise == pytest.approx(cell.deltas.mean(), rel=1e-4)
    assert table.final_calls == len(played)
    assert dict(table.looks) == {"toy on text": len(played)}


def test_routes_are_those_of_their_table_and_test_texts_are_apart(played: list[Cell], tmp_path: Path) -> None:
    written(played, tmp_path)
    routes, table, name = open_routes(tmp_path / "table"), RouteTable.load(SHIPPED_TABLE), SHIPPED_TABLE.name
    assert routes.tables() == shipped_tables()
    assert tuple(routes.structures(name)) == table.structures
    test = split_texts(table, "test").tolist()
    assert routes.texts(name, "test") == test
    assert sorted(routes.texts(name) + test) == list(range(len(table)))
    text, number = routes.texts(name)[5], 7
    row = routes.query(name, text, table.structures[number])
    assert (row.loss, row.static_loss) == (table.loss[text, number], table.static_loss[text, number])
    assert (row.probe_loss, row.kind) == (table.probe[text, number], table.kinds[table.kind[text]])
    assert row.flops_kept == pytest.approx(table.flops_kept(np.array([number]))[0])
    assert np.array_equal(routes.prefix(name, test[0])[:34], table.features[test[0]])
    assert routes.potential(row, 2.0) == pytest.approx(table.loss[text, 0] - row.loss - 2 * np.log(row.flops_kept))
    best = routes.best(name, text, 2.0)
    assert routes.potential(best, 2.0) == max(
        routes.potential(routes.query(name, text, each), 2.0) for each in table.structures
    )
    assert routes.regret(name, {text: best.structure}, 2.0) == 0
    assert routes.regret(name, {text: row.structure}, 2.0) > 0
    assert routes.final_calls == 0
    rise, kept = routes.final(name, dict.fromkeys(test, row.structure))
    assert rise == pytest.approx(float((table.loss[test, number] - table.loss[test, 0]).mean()), abs=1e-6)
    assert kept == pytest.approx(row.flops_kept)
    assert routes.looks == {name: len(test)}


def test_a_route_that_is_not_there_is_an_error(played: list[Cell], tmp_path: Path) -> None:
    written(played, tmp_path)
    routes, name = open_routes(tmp_path / "table"), SHIPPED_TABLE.name
    test, train = routes.texts(name, "test")[0], routes.texts(name)[0]
    for call, said in (
        (lambda: routes.query(name, test, "dense"), "is a test text: its losses only come from final"),
        (lambda: routes.best(name, test, 1.0), "is a test text"),
        (lambda: routes.query(name, 10**6, "dense"), "has no text 1000000"),
        (lambda: routes.query(name, train, "play@0.5"), "did you mean 'plays@0.5'"),
        (lambda: routes.query("bard", train, "dense"), "unknown route table 'bard'"),
        (lambda: routes.final(name, {train: "dense"}), r"is a train text: ask query\(\)"),
        (lambda: routes.final(name, {}), "final needs choices"),
        (lambda: routes.regret(name, {}, 1.0), "a regret needs choices"),
        (lambda: routes.texts(name, "all"), "unknown split 'all'"),
        (lambda: write_cells(tmp_path / "cells.jsonl", tmp_path / "t", [tmp_path]), "no route table at"),
        (lambda: write_cells(tmp_path / "cells.jsonl", tmp_path / "t", [SHIPPED_TABLE] * 2), "named alike"),
    ):
        with pytest.raises(InputError, match=said):
            call()
    assert routes.final_calls == 0


def test_what_is_not_there_is_an_error_and_never_filled_in(played: list[Cell], tmp_path: Path) -> None:
    table = written(played, tmp_path)
    for arguments, said in {
        ("toy", "text", "good@4", 0.2, 0): "never filled in between",
        ("toy", "text", "good@4", 0.1, 7): "no cell of good@4 at share 0.1 with seed 7",
        ("toy", "text", "god@4", 0.1, 0): "did you mean 'good@4'",
        ("toi", "text", "good@4", 0.1, 0): "unknown model of the table",
        ("toy", "txt", "good@4", 0.1, 0): "unknown text of toy",
    }.items():
        with pytest.raises(InputError, match=said):
            table.query(*arguments)
    with pytest.raises(InputError, match="unknown rule of a board 'repairs'"):
        table.query("toy", "text", "good@4", 0.1, 0, repairs="none")
    assert table.final_calls == 0


def test_boards_and_versions_are_told_apart(played: list[Cell], tmp_path: Path) -> None:
    other = [replace(cell, board=replace(BOARD, repair="none"), flops_kept=0.25) for cell in played]
    newer = [replace(cell, fingerprint="abc", flops_kept=0.75) for cell in played if cell.player == "good@4"]
    table = written([*played, *other, *newer], tmp_path)
    with pytest.raises(InputError, match=r"repair 'least_squares' or 'none', fingerprint '' or 'abc': name one"):
        table.query("toy", "text", "good@4", 0.1, 0)
    assert table.query("toy", "text", "good@4", 0.1, 0, repair="none").flops_kept == 0.25
    found = table.query("toy", "text", "good@4", 0.1, 0, repair="least_squares", fingerprint="abc")
    assert found.flops_kept == 0.75
    with pytest.raises(InputError, match="with repair='bias': it was played with"):
        table.query("toy", "text", "good@4", 0.1, 0, repair="bias")


def test_the_best_player_and_the_regret_of_trying_others_first(played: list[Cell], tmp_path: Path) -> None:
    table = written(played, tmp_path)
    means = {
        name: np.mean([cell.deltas.mean() for cell in played if cell.player == name and cell.share == 0.3])
        for name in PLAYERS
    }
    name, rise = table.best("toy", "text", 0.3)
    assert name == "good@4"
    assert rise == pytest.approx(means[name], rel=1e-4)
    assert table.looks["toy on text"] == 9  # three players, three seeds
    curve = table.regret_curve("toy", "text", 0.3, ["random@1", "fisher@4", "random@1", "good@4"][:2])
    least = means["good@4"]
    assert curve == pytest.approx(
        {"random@1": means["random@1"] - least, "fisher@4": means["fisher@4"] - least}, rel=1e-3
    )
    assert table.best("toy", "text", 0.3, ["fisher@4", "random@1"])[0] == "fisher@4"
    with pytest.raises(InputError, match="no cells of nobody@1"):
        table.best("toy", "text", 0.3, ["nobody@1"])


def test_datasets_reads_the_folder_without_test_losses(played: list[Cell], tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    written(played, tmp_path)
    cache = str(tmp_path / "cache")
    shown = datasets.load_dataset(str(tmp_path / "table"), cache_dir=cache)["train"]
    assert len(shown) == len(played)
    assert "test_losses" not in shown.column_names
    test = datasets.load_dataset(str(tmp_path / "table"), "cells_test", cache_dir=cache)["train"]
    assert {"cell", "test_losses", "dense_losses"} == set(test.column_names)


def test_damaged_and_foreign_folders_are_refused(played: list[Cell], tmp_path: Path) -> None:
    written(played, tmp_path)
    place = tmp_path / "table" / "cells.parquet"
    data = bytearray(place.read_bytes())
    data[len(data) // 2] ^= 1
    place.write_bytes(data)
    with pytest.raises(InputError, match=r"'cells\.parquet' in .* is damaged"):
        open_table(tmp_path / "table")
    with pytest.raises(InputError, match="no table at"):
        open_table(tmp_path)
    with pytest.raises(InputError, match="holds something other than a table"):
        write_cells(tmp_path / "cells.jsonl", tmp_path)
    assert (tmp_path / "cells.jsonl").is_file()
    description = tmp_path / "table" / "table.json"
    description.write_text(description.read_text().replace('"format": 1', '"format": 7'))
    with pytest.raises(InputError, match="has table format 7, known is 1"):
        open_table(tmp_path / "table")

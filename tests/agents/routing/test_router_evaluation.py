"""The comparison of routers: means, the static curve and intervals, against computations by hand; the two commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from plasticity_env import InputError
from plasticity_env.__main__ import main
from plasticity_env.agents.routing.router_evaluation import evaluate_routers, players_of, routers_table
from plasticity_env.agents.routing.static_curve import StaticCurve
from plasticity_env.controllers.routers import FixedRouter, LabelOracle, LearnedRouter, ProbingRouter
from plasticity_env.envs.route_split import split_texts
from tests.plasticity_env.envs.route_tables import made_table

TABLE = made_table()
TEXTS = split_texts(TABLE, "test")
WHOLE = np.full((1, len(TEXTS)), 1 / len(TEXTS))


def test_the_static_curve_is_the_lowest_of_the_labels_linear_between_their_shares():
    curve = StaticCurve(TABLE, TEXTS, WHOLE)
    rise = (TABLE.static_loss - TABLE.static_loss[:, :1])[TEXTS].mean(0)
    assert curve.at(np.array([0.85]))[0] == pytest.approx(min(rise[[1, 3, 5, 7]]), rel=1e-5)
    assert curve.at(np.array([0.70]))[0] == pytest.approx(min(rise[[2, 4, 6, 8]]), rel=1e-5)
    between = min(0.4 * rise[k] + 0.6 * rise[k + 1] for k in (1, 3, 5, 7))
    assert curve.at(np.array([0.85 * 0.4 + 0.70 * 0.6]))[0] == pytest.approx(between, rel=1e-5)
    assert curve.at(np.array([0.95]))[0] == pytest.approx(min(rise[[1, 3, 5, 7]]) / 3, rel=1e-5)
    assert np.isnan(curve.at(np.array([1.0]))[0])
    assert np.isnan(curve.at(np.array([0.69]))[0])


def test_a_table_with_some_whole_texts_only_has_one_curve():
    static = TABLE.static_loss.copy()
    static[:, [3, 4, 5, 6, 8, 1]] = np.nan  # left: plays@0.6 and mixture@0.3
    some = TABLE.__class__(**{**vars(TABLE), "static_loss": static})
    rise = (TABLE.static_loss - TABLE.static_loss[:, :1])[TEXTS].mean(0)
    found = StaticCurve(some, TEXTS, np.repeat(WHOLE, 3, 0)).at(np.array([0.85, 0.775, 0.70]))
    assert found == pytest.approx([rise[7], (rise[7] + rise[2]) / 2, rise[2]], rel=1e-5)
    static[:, 1:] = np.nan
    with pytest.raises(InputError, match="no whole text under a pruned structure"):
        StaticCurve(some, TEXTS, WHOLE)


def test_rows_are_means_with_paired_intervals():
    table = made_table(80)
    texts = split_texts(table, "test")
    players = [FixedRouter(7), LabelOracle(0.3), ProbingRouter(0.3), FixedRouter(0)]
    mixed, own, probing, dense = evaluate_routers(table, texts, players, replicates=200)
    rise = (table.loss - table.loss[:, :1])[texts]
    assert mixed.rise.value == pytest.approx(rise[:, 7].mean(), rel=1e-5)
    assert mixed.flops_kept.value == pytest.approx(table.flops_kept(np.array(7)))
    assert mixed.over_static.value == pytest.approx(mixed.rise.value / mixed.static_rise.value)
    assert own.saved.value == pytest.approx(own.static_rise.value - own.rise.value)
    assert own.over_static.high < 1 < mixed.over_static.low  # a fixed one pays the dense prefix on top
    spread = mixed.over_static.high - mixed.over_static.low
    assert spread < 0.5 * (mixed.rise.high - mixed.rise.low) / mixed.static_rise.value  # what texts share cancels
    assert np.isnan(probing.static_rise.value)  # all probes cost more than the dense model
    assert probing.plain()["over_static"] == {"value": None, "low": None, "high": None}
    assert dense.rise.value == dense.rise.high == 0.0


def test_players_fit_the_table():
    names = [player.name for player in players_of(TABLE)]
    assert names.count("label oracle") == names.count("nearest") == names.count("probing all") == 2
    assert names.count("fixed") == 3
    bare = TABLE.__class__(**{**vars(TABLE), "distance": np.zeros((60, 0), np.float32), "kinds": ("a", "b", "c")})
    names = [player.name for player in players_of(bare)]
    assert "nearest" not in names
    assert "label oracle" not in names
    text = routers_table(evaluate_routers(TABLE, TEXTS, [FixedRouter(7)], 50), TABLE.structures)
    assert "| fixed | mixture@0.3 | " in text


def test_the_commands_train_a_router_and_compare_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    TABLE.save("table")
    main(
        [
            "train-router",
            "table",
            "--output",
            "router",
            "--total_steps",
            "512",
            "--num_envs",
            "16",
            "--warm_start",
            "20",
        ]
    )
    said = capsys.readouterr().out
    assert "regression: " in said
    run = Path(said.splitlines()[-1].removeprefix("run: "))
    lines = {
        name: [json.loads(line) for line in (run / f"{name}.jsonl").read_text().splitlines()]
        for name in ("metrics", "decisions")
    }
    assert [row["global_step"] for row in lines["metrics"]] == [0, 0, 0, 256, 512]
    assert lines["metrics"][-1]["router/best_potential"] == max(row["router/potential"] for row in lines["metrics"])
    assert {row["structure"] for row in lines["decisions"]} <= set(TABLE.structures)
    assert len(lines["decisions"]) == 3 * len(split_texts(TABLE, "train"))
    assert "PPO: " in said
    assert LearnedRouter.load("router").structures == TABLE.structures
    main(
        [
            "evaluate-routers",
            "table",
            "--routers",
            "router",
            "--prices",
            "0.3,1",
            "--output",
            "rows.json",
            "--replicates",
            "20",
        ]
    )
    said = capsys.readouterr().out
    assert said.count("| learned | price ") == said.count("| text oracle | price ") == 2
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert len(rows) == said.count("\n| ") - 1
    assert {row["texts"] for row in rows} == {15}


def test_what_comes_with_the_package_is_played_by_name_and_written_to_a_page(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("page.md").write_text("# Boards\n")
    words = [
        "evaluate-routers",
        "mixed-llama-4x8",
        "--routers",
        "mixed-llama-4x8",
        "--test_share",
        "0.5",
        "--replicates",
        "5",
    ]
    for _ in range(2):
        main([*words, "--page", "page.md"])
    said, page = capsys.readouterr().out, Path("page.md").read_text()
    assert "64 test texts of 256 tokens, mixed-llama-4x8" in said
    assert page.startswith("# Boards\n")
    assert page.count("| learned | price ") == 3
    Path("mixed-llama-4x8").mkdir()  # a folder of the user's own is meant first
    with pytest.raises(SystemExit):
        main(words)
    assert "no route table at 'mixed-llama-4x8'" in capsys.readouterr().err

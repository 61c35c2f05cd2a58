"""The demo's last lines, and its comparison over heads and MLP blocks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from markupsafe import escape
from plotly.offline import get_plotlyjs

from plasticity_env.agents.evaluation.compare_config import CompareConfig
from plasticity_env.agents.evaluation.comparison import compare
from plasticity_env.agents.evaluation.demo import TRAINED, conclusion, verdict, write_demo_page
from plasticity_env.agents.evaluation.demo_config import DemoConfig
from plasticity_env.agents.training.train_config import TrainConfig
from plasticity_env.common import cli
from plasticity_env.common.arguments import fill
from plasticity_env.common.errors import InputError
from plasticity_env.controllers import shipped_folder
from tests.agents.test_dashboard import HOSTILE, results
from tests.conftest import filled


def _row(controller, delta_nll, sparsity=0.2, flop_price=None):
    return {"controller": controller, "delta_nll": delta_nll, "sparsity": sparsity, "flop_price": flop_price}


def test_the_verdict_compares_means_with_the_best_rule():
    rows = [_row("fisher", 0.1), _row("fisher", 0.3, 0.4), _row("random", 0.5), _row("keep_all", 0.0, None)]
    rows += [_row("ann", 0.05), _row("ann", 0.15, 0.4), _row("ann, free", 9.0, None, 4.0), _row("ann", 9.0, None, 4.0)]
    said = verdict({"model": "small", "units": "heads", "rows": rows})
    much = "it raises the loss by 0.100 nats on average"
    assert said == f"on small (heads) ann wins: {much}, 0.50 times as much as the best rule, fisher (0.200)"
    others = [_row("fisher", 0.1), _row("ann", 0.2), _row(TRAINED, 0.3)]
    said = verdict({"model": "small", "units": "heads", "rows": others})
    assert said == (
        f"on small (heads) the rule fisher wins: {much}, 0.50 times as much as ann (0.200), and {TRAINED} raises it by 0.300"
    )
    said = verdict({"model": "small", "units": "heads", "rows": [_row("fisher", 0.1), _row("ann", 0.1001)]})
    assert said.startswith(
        "on small (heads) ann and the best rule, fisher, are level: each raises the loss by 0.100 nats"
    )
    said = verdict({"model": "small", "units": "heads+mlp", "rows": rows[:3]})
    assert said == "on small (heads and MLP blocks) there is nothing to compare"


def test_the_last_words_say_what_was_compared_and_who_won():
    rows = [_row("fisher", 0.2), _row("random", 0.5), _row(TRAINED, 0.1)]
    said = conclusion({"comparison": {"model": "small", "units": "heads", "rows": rows}})
    assert said.splitlines() == [
        "3 controllers pruned small and were judged by the rise of the loss on test text that none of them read.",
        "On small (heads) ann (trained here) wins: it raises the loss by 0.100 nats on average, 0.50 times as much as the best "
        "rule, fisher (0.200).",
    ]


def test_a_controller_may_be_given_a_name_of_ones_own(tmp_path):
    small = {"calibration_blocks": 2, "test_blocks": 2, "max_length": 16, "seeds": 1, "sparsities": "0.2"}
    shown = []
    chosen = filled(
        CompareConfig, controllers=f"mine={shipped_folder()},random", repair="none", env="head_rank", **small
    )
    compare(replace(chosen, output_dir=tmp_path), lambda: shown.append((tmp_path / "results.json").is_file()))
    assert shown == [True, True]
    assert [row["controller"] for row in json.loads((tmp_path / "results.json").read_text())["rows"]] == [
        "mine",
        "random",
    ]
    with pytest.raises(InputError, match="unknown controller 'nobody'"):
        compare(replace(chosen, controllers="mine=nobody"))


def test_the_demo_compares_the_second_shipped_network_on_the_held_out_model():
    path = Path(__file__).parents[2] / "scripts" / "configs" / "demo.yaml"
    config = fill(DemoConfig(), yaml.safe_load(path.read_text()), path.name)
    assert config.held_out_model not in cli.words(config.train.model_name)
    assert "ann" in cli.words(config.held_out.controllers)
    assert config.held_out_units.settings.units == "heads+mlp"
    assert "ann:units" in cli.words(config.held_out_units.controllers)


def test_a_shipped_network_is_called_by_its_name(tmp_path):
    shared = {"env": "head_rank", "units": "heads+mlp", "sparsities": "0.2", "repair": "none", "seeds": 1}
    small = {"calibration_blocks": 2, "test_blocks": 2, "max_length": 16}
    compare(filled(CompareConfig, controllers="random,ann:units", output_dir=tmp_path, **shared, **small))
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["units"], {row["controller"] for row in results["rows"]}) == ("heads+mlp", {"random", "ann:units"})
    assert "units' FLOPs" in (tmp_path / "table.txt").read_text()


def test_the_demos_page_shows_hostile_names_as_text(tmp_path):
    hostile = "</script><script>alert(1)</script>"
    comparison = {**results(), "units": "heads"}
    for name in ("comparison", "held_out"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(comparison))
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "metrics.jsonl").write_text('{"global_step": 1, "loss/value": 2.0}\n')
    (tmp_path / "comparison" / "a <script>.json").touch()
    config = DemoConfig(train=TrainConfig(model_name=hostile), held_out_model=hostile)
    page = write_demo_page(config, tmp_path, 1.0, [(hostile, np.zeros((8, 8, 3), np.uint8))])
    text = page.read_text(encoding="utf-8").replace(get_plotlyjs(), "")
    assert text.count("<script") == text.count("</script>") == 3
    assert f"<dt>Trained on</dt><dd>{escape(hostile)}</dd>" in text
    assert f"<dt>Held-out model</dt><dd>on model {escape(HOSTILE)} (heads) " in text
    assert 'href="comparison/a%20%3Cscript%3E.json">comparison/a &lt;script&gt;.json</a>' in text
    held = text.split('id="page-data">')[1].split("</script>")[0]
    assert json.loads(held)["frames"][0]["caption"] == hostile
    assert "Content-Security-Policy" in text

"""The rule of thresholds in real runs: it prunes and revives, its events state numbers, its flags arrive."""

from __future__ import annotations

import re

import pytest

from plasticity_env.agents.cycle_cli.deciding import decider_for
from plasticity_env.agents.cycle_cli.plasticity_run import run_plasticity
from plasticity_env.agents.cycle_cli.run_arguments import QUICK, RunArguments
from plasticity_env.agents.evaluation import comparison, evaluation
from plasticity_env.agents.evaluation.compare_config import CompareConfig
from plasticity_env.common.arguments import fill, parse
from plasticity_env.cycle.controller_decider import ControllerDecider
from plasticity_env.cycle.experiment import NeuralPlasticityExperiment
from plasticity_env.cycle.run_settings import ExperimentSettings

FLAGS = [
    *("--entropy_threshold", "1.5", "--gradient_threshold", "0.02", "--min_zeroed_epochs", "3"),
    *("--max_prune_rate", "0.05", "--history", "2", "--prune_entropy", "low", "--aggressiveness", "0.3"),
]


@pytest.mark.slow
def test_a_run_prunes_and_revives(tmp_path):
    """Slow: a whole run of three cycles."""
    settings = ExperimentSettings(
        **{"pruning_strategy": "controller", "pruning_level": 0.5, "cycles": 3, "checkpoints": False},
        **{"warmup_steps": 2, "training_steps": 2, "analysis_steps": 2, "sample_tokens": 0, "learning_rate": 1e-3},
        **{"batch_size": 4, "max_length": 32, "reward_blocks": 4, "test_blocks": 4},
    )
    record = NeuralPlasticityExperiment(
        settings, tmp_path / "run", decider_for(settings), progress=False, pages=False
    ).run()
    edits = [event.edit for event in record.events]
    assert "prune" in edits
    assert "revive" in edits
    number = r"[\d.e-]+"
    for event in record.events:
        than = ">" if event.edit == "revive" else "[<=]"
        said = rf"entropy {number} [<>=] {number} of the highest possible and gradient {number} {than} {number}"
        assert re.match(said, event.reason), event
    decided = [row.details["direction"] for row in record.phases if row.phase == "pruning"]
    assert len(decided) == 3
    assert len(set(decided)) == 2  # decided anew, and not the same each time


def test_flags_reach_the_rule():
    settings = parse(ExperimentSettings, ["--pruning_strategy", "controller", *FLAGS])
    decider = decider_for(settings)
    assert isinstance(decider, ControllerDecider)
    rule = decider.controller
    assert (rule.prune_entropy, rule.aggressiveness, rule.entropy_threshold) == ("low", 0.3, 1.5)
    assert (rule.gradient_threshold, rule.min_zeroed_epochs, rule.max_prune_rate) == (0.02, 3, 0.05)
    again = ExperimentSettings.from_json(settings.to_json())
    assert again == settings
    old = {name: value for name, value in settings.to_json().items() if name != "thresholds"}
    assert ExperimentSettings.from_json(old).thresholds == ExperimentSettings().thresholds  # a run before they were


@pytest.mark.parametrize(("flags", "shares"), [([], [0.25, 0.5]), (FLAGS, [None])])
def test_thresholds_that_are_given_are_played_as_they_are(flags, shares):
    words = ["--model_name", "bard-gpt2-4x4", "--controllers", "plasticity", "--sparsities", "0.25,0.5", "--seeds", "1"]
    words += ["--repair", "none", "--test_blocks", "2", "--max_length", "16", "--calibration_blocks", "2", *flags]
    config = parse(CompareConfig, words)
    players, _, loaded, text = comparison.prepare(config)
    (name, options, label) = players[0]
    arena = evaluation.Arena(config.protocol(), loaded, text, "plasticity/Heads-v1", config.settings)
    rows = list(arena.play(name, options, label))
    assert [row.sparsity for row in rows] == shares
    if flags:
        assert rows[0].active_heads == 15  # 0.05 of 16 heads is one


@pytest.mark.slow
def test_the_quick_test_costs_little_and_its_revivals_help(tmp_path):
    """Slow: the whole run of ``--quick_test``, whose training is long enough to judge."""
    arguments = fill(RunArguments(), {**QUICK, "quick_test": True, "output_dir": tmp_path / "run", "sample_tokens": 0})
    record = run_plasticity(arguments, say=lambda sentence: None)
    edits = record.summary["edits"]
    assert edits["prune"] > 0
    assert edits["revive"] > 0
    assert record.summary["ppl_over_control"] < 1.02
    assert record.summary["final"]["flops_kept"] < 0.9
    for cycle in record.summary["cycles"]:
        assert cycle["growth"]["loss"] < cycle["pruning"]["loss"]

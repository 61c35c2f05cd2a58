"""Pruning to a share of the FLOPs, and recovery from it, through the command."""

from __future__ import annotations

import pytest

from plasticity_env.agents.commands import prune_command
from plasticity_env.agents.flop_pruning import DISTIL
from plasticity_env.common.errors import InputError
from plasticity_env.common.values import count_of
from plasticity_env.model.checkpoints import load_checkpoint
from plasticity_env.model.flops import flop_table
from plasticity_env.steps.step_arguments import PruneConfig, StepText


@pytest.mark.slow
def test_a_model_keeps_a_share_of_its_flops_and_recovers(tmp_path, monkeypatch, capsys):
    """Slow: scores of heads and MLP blocks, and 16 steps of distillation."""
    monkeypatch.chdir(tmp_path)
    text = StepText(max_length=32, calibration_blocks=8, test_blocks=8)
    config = PruneConfig(
        "bard-gpt2-4x4", flops=0.8, mlp_blocks=4, moment_blocks=8, recover="4k", output_path=tmp_path / "out", text=text
    )
    prune_command.main(config)
    said = capsys.readouterr().out
    assert "blocks of MLP neurons pruned by crossfit_stepwise, repair least_squares on 8 blocks" in said
    assert "16 steps at 0.0002" in said  # of 8 x 32 tokens
    kept = load_checkpoint("out")
    model = kept.loaded.model
    share = flop_table(model, 32).total(model.active) / flop_table(model, 32).total(model.active | True)
    assert 0.8 <= share < 0.83  # whole units go, so it is a little more
    assert model.mlp_blocks == 4
    pruning, recovery = kept.notes["history"]
    assert pruning["result"]["after"]["flops_kept"] == pytest.approx(share)
    assert recovery["arguments"]["distil"] == DISTIL
    assert recovery["result"]["after"]["loss"] < pruning["result"]["after"]["loss"]
    with pytest.raises(InputError, match="starts from a dense model"):
        prune_command.main(PruneConfig("out", flops=0.5, output_path=tmp_path / "again", text=text))
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(("said", "count"), [("200k", 200_000), ("1.5M", 1_500_000), ("200_000", 200_000), (" 7 ", 7)])
def test_counts_as_people_write_them(said, count):
    assert count_of("recover", said) == count


@pytest.mark.parametrize("said", ["", "k", "0", "-1k", "1e5", "2m", "200 k"])
def test_what_is_no_count(said):
    with pytest.raises(InputError, match="recover must be a count of at least 1"):
        count_of("recover", said)


def test_a_strategy_that_is_named_is_the_one_that_is_played() -> None:
    assert PruneConfig("bard-gpt2-4x4").strategy == "fisher"
    assert PruneConfig("bard-gpt2-4x4", flops=0.8).strategy == "crossfit_stepwise"
    assert PruneConfig("bard-gpt2-4x4", strategy="fisher", flops=0.8).strategy == "fisher"

"""The cycle told stage by stage: a run that is stopped leaves its tables too."""

from __future__ import annotations

import json

import pytest

from plasticity_env.agents.cycle_cli.run_arguments import StageArguments
from plasticity_env.agents.cycle_cli.stage_run import run_stages
from plasticity_env.common.tracking import TrackingOptions


def test_ctrl_c_leaves_the_tables_of_what_was_measured(tmp_path):
    text = tmp_path / "words.txt"
    text.write_text("to be or not to be that is the question " * 300)
    arguments = StageArguments(
        model_name="bard-gpt2-4x4",
        dataset=str(text),
        warmup_steps=1,
        training_steps=1,
        analysis_steps=1,
        max_length=32,
        reward_blocks=2,
        test_blocks=2,
        sample_tokens=0,
        output_dir=tmp_path / "run",
        tracking=TrackingOptions(tensorboard=False),
    )

    def stop(sentence):
        if sentence.startswith("warmup"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stages(arguments, stop)
    stages = json.loads((tmp_path / "run" / "metrics" / "stages.json").read_text())
    assert [row["phase"] for row in stages] == ["warmup"]

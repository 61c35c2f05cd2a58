"""Which text is read: one description for all settings, and one text for all steps that follow each other."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from plasticity_env import InputError, load_model
from plasticity_env.agents.benchmarks.bench_options import Options
from plasticity_env.cycle.grid.grid_plan import GridSetting
from plasticity_env.cycle.run_settings import ExperimentSettings
from plasticity_env.data.text_settings import TextSettings
from plasticity_env.envs.settings import Settings
from plasticity_env.model.checkpoints import Checkpoint
from plasticity_env.steps.step_arguments import StepText

MADE_OF_IT = [Settings, ExperimentSettings, GridSetting, StepText]
LINES = "".join(f"Line {number} of a text that says as much as another line.\n" for number in range(400))


@pytest.mark.parametrize("kind", MADE_OF_IT)
def test_no_settings_describe_their_text_themselves(kind):
    """A default may differ: a step's text is that of the step before."""
    assert issubclass(kind, TextSettings)
    own = vars(kind)["__annotations__"]
    assert not {entry.name for entry in fields(TextSettings)} & set(own) - {"dataset"}
    assert ("dataset" in own) == (kind is StepText)


def test_benchmarks_hold_the_settings_of_the_environment():
    assert {entry.name for entry in fields(Options)} & {entry.name for entry in fields(Settings)} == {"mlp_blocks"}
    assert isinstance(Options().settings, Settings)


@pytest.mark.parametrize("kind", MADE_OF_IT)
def test_what_enters_is_plain_or_refused(kind, tmp_path):
    settings = kind(dataset=tmp_path / "a.txt", max_length=np.int64(16))
    assert (settings.dataset, type(settings.max_length)) == (str(tmp_path / "a.txt"), int)
    for changes, sentence in (
        ({"dataset": 3}, "dataset must be a name or a path, got 3"),
        ({"dataset_config": ""}, "dataset_config must be a name or a path"),
        ({"text_split": "half"}, "unknown text_split 'half'"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"max_length": 1}, "max_length must be a whole number of at least 2, got 1"),
    ):
        with pytest.raises(InputError, match=sentence):
            kind(**changes)


def test_a_step_reads_the_text_of_the_step_before_and_splits_it_alike(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text(LINES)
    loaded = load_model("bard-gpt2-4x4")
    first = Checkpoint(loaded, {}, None)
    text = StepText(str(path), text_split="leading", max_length=16).open(first)
    assert text.documents("test") is None  # cut from the front
    for notes in (first.notes, {"text": [str(path), None]}):  # as noted now, and before there was a choice
        then = Checkpoint(loaded, dict(notes), None)
        assert StepText(max_length=16).open(then).blocks("test").equal(text.blocks("test"))
        assert then.notes["text"] == [str(path), None, "leading"]
    dealt = StepText(str(path), max_length=16).open(Checkpoint(loaded, dict(first.notes), None))
    assert dealt.documents("test") is not None

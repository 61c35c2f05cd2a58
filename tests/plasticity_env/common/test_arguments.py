"""Nested arguments: their flags stand on the command line, files of today and of before are read alike."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from typing import Annotated

import pytest
import yaml

from plasticity_env import InputError
from plasticity_env.agents.cycle_cli.grid_config import GridConfig
from plasticity_env.agents.es_config import ESConfig
from plasticity_env.agents.evaluation.compare_config import CompareConfig
from plasticity_env.agents.evaluation.play_config import PlayConfig
from plasticity_env.agents.export_config import ExportConfig
from plasticity_env.agents.leaderboard.leaderboard_config import LeaderboardConfig
from plasticity_env.agents.online import online_run
from plasticity_env.agents.online.online_arguments import OnlineRunConfig
from plasticity_env.agents.ppo.ppo import PPOConfig
from plasticity_env.agents.studies.curves_config import CurvesConfig
from plasticity_env.agents.studies.tuning_config import TuningConfig
from plasticity_env.agents.training.train_config import TrainConfig
from plasticity_env.agents.training.train_run import ARGUMENTS, check_resumed
from plasticity_env.common.arguments import fill, first_change, flags, flat, nested, parse, plain
from plasticity_env.common.files import write_text
from plasticity_env.envs.settings import Settings
from tests.conftest import filled

# the environment's arguments that each command had as flags before they were nested
TEXT = "dataset dataset_config max_length batch_size calibration_blocks"
UNITS = "units mlp_blocks neuron_order"
TRAINED = f"{TEXT} {UNITS} reward flop_price horizon train_steps train_rate train_streams grow_warmup_steps growth_init repair"
PINNED = {
    TrainConfig: f"{TRAINED} model_name mode obs_signal residual_signal crossfit_signal max_sparsity min_heads_per_layer "
    "reward_blocks device learning_rate pruned_share rounds",
    CompareConfig: f"{TEXT} {UNITS} model_name mode repair device",
    PlayConfig: f"{TEXT} model_name mode reward flop_price horizon train_steps learning_rate repair reward_blocks device",
    ExportConfig: f"{TEXT} {UNITS} model_name repair device",
    LeaderboardConfig: f"{TEXT} {UNITS} models repair mode reward_blocks device",
    ESConfig: "model_name dataset pruned_share repair calibration_blocks reward_blocks max_length device",
    TuningConfig: "model_name dataset pruned_share repair calibration_blocks reward_blocks max_length device",
    OnlineRunConfig: "model_name dataset dataset_config device batch_size max_length warmup_steps finetuning_steps analyze_steps "
    "cycles pruning_level learning_rate prune_entropy decision_every flop_price pruning_mode repair growth_init "
    "growth_warmup_steps new_head_lr_multiplier reward_blocks test_blocks sample_tokens seed",
    GridConfig: f"{TEXT} model_name pruning_strategy initial_weights initial_scale training_steps learning_rate "
    "rate_decay_steps test_blocks device",
    CurvesConfig: "model_name calibration_blocks reward_blocks max_length device",
}


@pytest.mark.parametrize("arguments", PINNED, ids=lambda each: each.__name__)
def test_every_command_has_the_flags_that_it_had(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(arguments, ["--help"])
    assert stop.value.code == 0
    shown = {word.strip(",") for word in capsys.readouterr().out.split() if word.startswith("--")}
    assert {f"--{name}" for name in PINNED[arguments].split()} <= shown
    assert not [name for name in shown if "settings" in name]


@pytest.mark.parametrize("arguments", [*PINNED])
def test_no_flag_means_two_things(arguments):
    inner = nested(arguments())
    own = [entry.name for entry in fields(arguments) if entry.name not in inner]
    names = own + [name for shown in inner.values() for name in shown]
    assert len(set(names)) == len(names)


def test_a_flag_reaches_the_settings_and_what_a_command_lacks_is_refused(capsys):
    config = parse(
        TrainConfig, ["--units", "heads+mlp", "--train_rate", "0.5", "--flop_price", "2", "--learning_rate", "0.1"]
    )
    assert (config.settings.units, config.settings.learning_rate, config.ppo.learning_rate) == ("heads+mlp", 0.5, 0.1)
    assert config.settings.flop_price == 2.0
    assert config.settings.calibration_blocks == TrainConfig().settings.calibration_blocks
    assert parse(TrainConfig, ["--flop_price", "2", "3"]).settings.flop_price == (2.0, 3.0)
    with pytest.raises(InputError, match="horizon must be a whole number of at least 1, got 0"):
        parse(PlayConfig, ["--horizon", "0"])
    with pytest.raises(InputError, match="unknown flag '--train_steps'"):
        parse(CompareConfig, ["--train_steps", "3"])
    assert capsys.readouterr() == ("", "")


def test_places_may_be_said_or_left_out():
    flat_file = yaml.safe_load("units: heads+mlp\nflop_price: [2, 3]\ntrain_rate: 0.5\ntotal_timesteps: 8\n")
    nested_file = yaml.safe_load(
        "settings: {units: heads+mlp, flop_price: [2, 3], train_rate: 0.5}\nppo: {total_timesteps: 8}\n"
    )
    assert fill(TrainConfig(), flat_file) == fill(TrainConfig(), nested_file)
    assert fill(TrainConfig(), flat_file).settings == Settings(
        horizon=4, calibration_blocks=8, reward_blocks=8, units="heads+mlp", flop_price=(2, 3), learning_rate=0.5
    )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"unit": "heads"}, "unknown key in the file 'unit' (did you mean 'units'?)"),
        ({"settings": {"unit": "heads"}}, "unknown key in the file 'unit'"),
        ({"settings": {"train_steps": 3}}, "unknown key in settings of the file 'train_steps'"),
        ({"train_steps": 3}, "unknown key in the file 'train_steps'"),
        ({"units": 3}, "units in the file should be like 'heads', got 3"),
        ({"settings": {"units": "mlp"}}, "unknown units 'mlp'"),
        ({"calibration_blocks": True}, "calibration_blocks in the file should be like 16, got True"),
        ({"output_dir": 5}, "output_dir in the file should be of type Path | None, got 5"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(values, said):
    with pytest.raises(InputError) as error:
        fill(CompareConfig(), values, "the file")
    assert said in str(error.value)


@pytest.mark.parametrize("arguments", [*PINNED])
def test_what_is_written_is_read_again(arguments):
    config = filled(arguments, batch_size=3, max_length=48)
    written = yaml.safe_load(yaml.safe_dump(plain(config)))
    assert fill(arguments(), written) == config
    (place,) = (name for name, part in written.items() if isinstance(part, dict) and "max_length" in part)
    assert fill(arguments(), {**written, **written.pop(place)}) == config


def test_a_run_of_before_goes_on_and_is_told_from_others(tmp_path):
    """Its file held the environment's arguments side by side with the others."""
    config = filled(TrainConfig, output_dir=tmp_path, resume=True, max_length=32, train_rate=0.1)
    before = plain(config)
    before |= before.pop("settings")
    del before["flop_budget"]  # no argument then
    assert (before["train_rate"], before["ppo"]["learning_rate"]) == (0.1, PPOConfig().learning_rate)
    for saved in (before, plain(config)):
        (tmp_path / ARGUMENTS).write_text(yaml.safe_dump(saved))
        check_resumed(config)
        with pytest.raises(InputError, match=r"train_rate=0\.1, not 0\.2"):
            check_resumed(fill(config, {"train_rate": 0.2}))
        with pytest.raises(InputError, match=r"flop_price=\[1.0, 16.0\], not 4.0"):
            check_resumed(fill(config, {"flop_price": 4.0}))


def test_an_online_run_of_before_goes_on(tmp_path):
    """Its arguments were written side by side, those of the tracking nested."""
    config = filled(OnlineRunConfig, dataset="shakespeare", finetuning_steps=3, controller=tmp_path / "mine")
    before = plain(config)
    before |= before.pop("experiment")
    assert before["finetuning_steps"] == 3
    write_text(tmp_path / online_run.ARGUMENTS, json.dumps(before))
    begun = online_run._read_arguments(OnlineRunConfig(resume=tmp_path, verbose=True))
    assert begun == replace(config, resume=tmp_path, verbose=True)
    assert begun.settings().training_steps == 3


def test_a_search_of_before_is_told_from_others():
    before = flat(ESConfig())
    del before["batch_size"]
    assert first_change(ESConfig(), before, before) is None
    assert first_change(filled(ESConfig, max_length=8), before, before) == ("max_length", 128, 8)


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("--tensorboard", True),
        ("--tensorboard=True", True),
        ("--tensorboard true", True),
        ("--tensorboard=1", True),
        ("--no_tensorboard", False),
        ("--no-tensorboard", False),
        ("--tensorboard=False", False),
        ("--tensorboard false", False),
        ("--no_tensorboard=False", True),
    ],
)
def test_a_switch_is_written_as_sweeps_write_it_or_as_people_do(words, value):
    assert parse(TrainConfig, words.split()).tracking.tensorboard is value
    config = parse(TrainConfig, [*words.split(), "--seed", "3"])
    assert (config.tracking.tensorboard, config.ppo.seed) == (value, 3)


def test_a_sweep_s_words_are_a_training(tmp_path):
    words = (
        "--learning_rate=3e-4 --resume=False --obs_signal=False --train_rate=1e-05 --flop_price 1 2e0 --keep_bias=-1.5"
    )
    config = parse(TrainConfig, [*words.split(), f"--output_dir={tmp_path}"])
    assert (config.ppo.learning_rate, config.ppo.keep_bias, config.resume) == (3e-4, -1.5, False)
    assert (config.settings.obs_signal, config.settings.learning_rate) == (False, 1e-5)
    assert (config.settings.flop_price, config.output_dir) == ((1.0, 2.0), tmp_path)


def test_numbers_that_yaml_takes_for_text_are_numbers():
    text = "learning_rate: 3e-4\nflop_price: [1e0, 16]\ntrain_rate: 1E-5\nmax_sparsity: 5e-1\nseed: 2\n"
    values = yaml.safe_load(text)
    assert values["learning_rate"] == "3e-4"  # a number of YAML 1.1 has a point
    config = fill(TrainConfig(), values)
    assert (config.ppo.learning_rate, config.settings.learning_rate) == (3e-4, 1e-5)
    assert (config.settings.flop_price, config.settings.max_sparsity) == ((1.0, 16), 0.5)
    assert fill(TuningConfig(), {"pruned_share": "0.1"}).pruned_share == "0.1"  # what is text stays text
    for value in ("three", "", "1e", None, True, [3e-4], "nan"):
        with pytest.raises(InputError, match="learning_rate"):
            fill(TrainConfig(), {"learning_rate": value})
    with pytest.raises(InputError, match="seed in the arguments should be like 1, got '3'"):
        fill(TrainConfig(), {"seed": "3"})  # a whole number needs no quotes


def test_a_tilde_on_the_command_line_and_in_a_file_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse(TrainConfig, ["--output_dir", "~/run"]).output_dir == tmp_path / "run"
    assert fill(TrainConfig(), {"output_dir": "~/run"}).output_dir == tmp_path / "run"


def test_counts_that_may_be_left_out_may_be_none_and_others_not():
    assert CompareConfig(test_blocks=None).test_blocks is None
    with pytest.raises(InputError, match="horizon must be a whole number of at least 1, got None"):
        Settings(horizon=None)
    with pytest.raises(InputError, match="seed 4294967296 is more than 4294967295"):
        PPOConfig(seed=2**32)


@dataclass(frozen=True)
class Inner:
    """Three.

    Attributes:
        a: The first.
        b: The second.
        c: The third.
    """

    a: int = 1
    b: float = 2.0
    c: tuple[int, ...] = (3,)


@dataclass(frozen=True)
class Outer:
    """Of its inner one two fields are flags, one under another name."""

    own: str = "x"
    inner: Annotated[Inner, flags(Inner, "a", other="c")] = Inner(b=5.0)


@dataclass(frozen=True)
class Rest:
    """Of its inner one all fields but one are flags."""

    inner: Annotated[Inner, flags(Inner, hidden=("b",))] = Inner()


def test_flags_name_fields_and_what_is_hidden_keeps_the_commands_value():
    assert nested(Outer()) == {"inner": {"a": "a", "other": "c"}}
    assert flat(Outer()) == {"own": "x", "a": 1, "other": [3]}
    assert fill(Outer(), {"other": 7}) == Outer(inner=Inner(1, 5.0, (7,)))
    assert parse(Outer, ["--a", "4", "--other", "5", "6"]) == Outer(inner=Inner(4, 5.0, (5, 6)))
    assert nested(Rest()) == {"inner": {"a": "a", "c": "c"}}


def test_settings_travel_whole():
    settings = Settings(flop_price=[2, 3], pruned_share=0.5)
    assert settings == Settings.read(settings.kwargs())
    assert hash(settings) == hash(Settings(flop_price=(2, 3), pruned_share=0.5))
    assert "pruned_share" not in Settings().kwargs()  # each environment has its own

"""A complete table is what measuring each mask on the model gives, whatever stops and goes on in between."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as tf

from plasticity_env import InputError, LoadedModel, PlasticModel, TextSplits
from plasticity_env.__main__ import main
from plasticity_env.agents.leaderboard.board_rules import Rules
from plasticity_env.agents.leaderboard.playing import Table
from plasticity_env.agents.tabular import mask_shards
from plasticity_env.agents.tabular.mask_shards import SHARDS, MaskShards
from plasticity_env.agents.tabular.mask_tree import MaskTree
from plasticity_env.agents.tabular.whole_table import TABLE, measured
from plasticity_env.envs.settings import Settings
from plasticity_env.envs.shared_arrays import pack
from plasticity_env.model.flops import flops
from plasticity_env.tabular import open_masks

SIZES = {
    "gpt2": lambda words: tf.GPT2Config(
        vocab_size=words, n_embd=16, n_layer=2, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0
    ),
    "llama": lambda words: tf.LlamaConfig(
        vocab_size=words,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=None,
    ),
}


@pytest.fixture
def table_of(small_text: TextSplits) -> Callable[..., Table]:
    """Make a leaderboard's table over a random model."""

    def make(architecture: str = "gpt2", **settings: object) -> Table:
        torch.manual_seed(0)
        model = tf.AutoModelForCausalLM.from_config(SIZES[architecture](len(small_text.tokenizer))).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim == 2 and "embed" not in name and "wte" not in name:
                    parameter.normal_(std=0.5)
        loaded = LoadedModel(PlasticModel(model), small_text.tokenizer, architecture)
        quiet = {"residual_signal": False, "obs_signal": False, "device": "cpu"}
        own = Settings(**{"model_name": architecture, "max_length": 32, "calibration_blocks": 4, **quiet, **settings})
        rules = Rules(replace(own, reward_blocks=2, max_sparsity=1.0), test_blocks=3)
        return Table(rules, pack(loaded, small_text, ("calibration", "reward", "test")))

    return make


@pytest.mark.parametrize("architecture", sorted(SIZES))
@pytest.mark.parametrize("repair", ["least_squares", "bias", "none"])
def test_shared_layers_give_each_mask_its_own_loss(table_of, architecture: str, repair: str) -> None:
    table = table_of(architecture, repair=repair)
    shards = MaskShards(Path("nowhere"), table, seed=1)
    tree, ids = shards._tree, table.tested
    first = 2
    found, masks = tree.losses(first, ids), tree.masks(first)
    assert found.shape == (len(masks), len(ids))
    for place in (0, 1, len(masks) // 2, len(masks) - 1):
        assert found[place].tolist() == pytest.approx(table.losses_of(masks[place], 1, ids), abs=1e-4)
    assert len(torch.unique(found[:, 0])) == len(masks)  # no mask stands for another


def test_a_run_that_was_cut_goes_on_and_the_table_holds_every_mask_once(table_of, tmp_path: Path) -> None:
    table = table_of()
    assert "3 are left" in measured(MaskShards(tmp_path, table, seed=0), limit=1)
    written = (tmp_path / SHARDS / "000.parquet").read_bytes()
    assert "3 of 4 shards" in measured(MaskShards(tmp_path, table, seed=0))
    assert (tmp_path / SHARDS / "000.parquet").read_bytes() == written
    masks = open_masks(tmp_path / TABLE)
    every = {"/".join("".join(layer) for layer in (bits[:2], bits[2:])) for bits in itertools.product("01", repeat=4)}
    assert set(masks.masks) == every
    assert len(masks) == len(every)
    some = "01/11"
    row = masks.query(some)
    model = table.workbench.model
    mask = torch.tensor([[False, True], [True, True]])
    drawn = table.blocks(0)
    read = {name: table.workbench.text.blocks(name)[drawn[name]] for name in ("calibration", "reward")}
    assert row.calibration_loss == pytest.approx(np.mean(table.losses_of(mask, 0, read["calibration"])), abs=1e-4)
    assert row.reward_loss == pytest.approx(np.mean(table.losses_of(mask, 0, read["reward"])), abs=1e-4)
    assert masks.final(some) == pytest.approx(np.mean(table.losses_of(mask, 0)), abs=1e-4)
    model.set_active(mask)
    assert row.flops == flops(model, 32)
    assert row.heads == 3
    assert json.loads((tmp_path / TABLE / "table.json").read_text())["rows"] == {"masks": 16, "masks_test": 16}


def test_the_shipped_table_is_what_the_shipped_model_loses() -> None:
    masks = open_masks("bard-gpt2-4x4")
    assert len(masks) == 2**16
    about = masks.description
    sizes = {"calibration_blocks": len(about["calibration_blocks"]), "reward_blocks": len(about["reward_blocks"])}
    settings = Settings(model_name=about["model"], max_length=128, residual_signal=False, device="cpu", **sizes)
    table = Table(Rules(settings, about["test_blocks"]))
    assert table.blocks(about["seed"]) == {name: about[f"{name}_blocks"] for name in ("calibration", "reward")}
    some = "1011/1111/1101/0110"
    mask = torch.tensor([[bit == "1" for bit in layer] for layer in some.split("/")])
    assert masks.final(some) == pytest.approx(np.mean(table.losses_of(mask, 0)), abs=1e-4)


def test_what_a_folder_lacks_is_named(table_of, tmp_path: Path) -> None:
    measured(MaskShards(tmp_path, table_of(), seed=0))
    for name, said in (("masks_test.parquet", "lacks masks_test.parquet"), ("digests.json", "lacks its digests")):
        copy = Path(shutil.copytree(tmp_path / TABLE, tmp_path / name))
        (copy / name).unlink()
        with pytest.raises(InputError, match=f"{said}: make one with"):
            open_masks(copy)


def test_the_card_names_every_machine_that_measured(table_of, tmp_path: Path, monkeypatch) -> None:
    for number in (1, 2):
        monkeypatch.setattr(mask_shards, "machine", lambda of=number: f"machine {of}")
        measured(MaskShards(tmp_path, table_of(), seed=0), limit=number)
    monkeypatch.setattr(mask_shards, "machine", lambda: "machine 1")
    measured(MaskShards(tmp_path, table_of(), seed=0))
    assert open_masks(tmp_path / TABLE).description["machines"] == ["machine 1", "machine 2"]


def test_the_first_layers_may_stay_whole(table_of, tmp_path: Path) -> None:
    table = table_of()
    measured(MaskShards(tmp_path, table, seed=0, whole_layers=1))
    masks = open_masks(tmp_path / TABLE)
    assert masks.masks == ["11/00", "11/01", "11/10", "11/11"]
    mask = torch.tensor([[True, True], [True, False]])
    assert masks.final("11/10") == pytest.approx(np.mean(table.losses_of(mask, 0)), abs=1e-4)
    assert "first 1 layers, which stay whole" in (tmp_path / TABLE / "README.md").read_text()
    with pytest.raises(InputError, match="another whole_layers"):
        MaskShards(tmp_path, table, seed=0)
    with pytest.raises(InputError, match=r"whole_layers must lie in \[0, 1\]"):
        MaskShards(tmp_path / "other", table, seed=0, whole_layers=2)


def test_shards_of_other_arguments_are_refused(table_of, tmp_path: Path) -> None:
    measured(MaskShards(tmp_path, table_of(), seed=0), limit=1)
    with pytest.raises(InputError, match="another seed"):
        MaskShards(tmp_path, table_of(), seed=1)
    with pytest.raises(InputError, match="another repair"):
        MaskShards(tmp_path, table_of(repair="bias"), seed=0)
    (tmp_path / "masks.json").unlink()
    with pytest.raises(InputError, match=r"no masks\.json"):
        MaskShards(tmp_path, table_of(), seed=0)


def test_models_without_such_a_table_are_refused(table_of, narrow_model, small_text: TextSplits) -> None:
    ids = small_text.blocks("calibration")[:2]
    with pytest.raises(InputError, match="has MLP blocks"):
        MaskTree(narrow_model(2).model, "none", ids)
    with pytest.raises(InputError, match="fits a layer to those before it"):
        MaskTree(narrow_model(0).model, "sequential", ids)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "unknown table 'nothing'"),
        (["build", "--cells", "missing.jsonl"], "no cells at 'missing.jsonl'"),
        (["masks", "--model_name", "bard-gpt2-6x8", "--output_dir", "out"], "at most 20 heads that may go, here 48"),
        (["masks", "--shards", "0"], "shards must be a whole number of at least 1"),
    ],
)
def test_bad_input_is_one_sentence(words, said, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(["tabular", *words])
    assert left.value.code == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

"""Pruning in one go and exporting: what lands in the folder, and that nothing does when it cannot be done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers as tf

from plasticity_env import InputError
from plasticity_env.agents.export_config import ExportConfig
from plasticity_env.agents.exporting import export
from plasticity_env.model.checkpoints import save_plastic
from plasticity_env.model.loading import load_model
from plasticity_env.model.stock.uniform import group_shape
from tests.conftest import build, filled

FAST = {"max_length": 32, "calibration_blocks": 4, "test_blocks": 2}
LLAMA, GPT2 = "bard-llama-4x8", "bard-gpt2-4x4"


def mask_in(folder):
    return torch.tensor(json.loads((folder / "export.json").read_text())["active"]).bool()


@pytest.mark.parametrize("strategy", ["fisher", "random", "entropy_low", "obs", "ann", "ann:units"])
def test_masked_prunes_the_asked_share_by_any_strategy(tmp_path, strategy):
    config = filled(
        ExportConfig, model_name=GPT2, pruning_level=0.25, strategy=strategy, output_path=tmp_path / "it", **FAST
    )
    folder, said = export(config)
    assert int((~mask_in(folder)).sum()) == 4
    assert strategy in said[0]
    assert "test perplexity" in said[0]
    model = tf.AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__name__ == "GPT2LMHeadModel"
    ids = tf.AutoTokenizer.from_pretrained(folder)("To be", return_tensors="pt")["input_ids"]
    assert model.generate(ids, do_sample=False, max_new_tokens=3).shape == (1, ids.shape[1] + 3)


@pytest.mark.parametrize("repair", ["bias", "sequential"])
def test_every_repair_can_be_written(tmp_path, repair):
    config = filled(
        ExportConfig, model_name=LLAMA, pruning_level=0.25, repair=repair, output_path=tmp_path / "it", **FAST
    )
    _, said = export(config)
    assert any("its logits differ" in line for line in said)
    assert any("biases" in line for line in said) == (repair == "bias")


def test_uniform_writes_a_smaller_stock_model(tmp_path):
    config = filled(
        ExportConfig, model_name=LLAMA, pruning_level=0.25, format="uniform", output_path=tmp_path / "it", **FAST
    )
    folder, said = export(config)
    assert group_shape(mask_in(folder), 2) == (2, 3)
    model = tf.AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__name__ == "MistralForCausalLM"
    assert (model.config.num_attention_heads, model.config.num_key_value_heads) == (6, 2)
    assert any("MistralConfig" in line for line in said)


def test_uniform_heads_and_neurons(tmp_path):
    folder, said = export(
        filled(ExportConfig, model_name=LLAMA, uniform_heads=4, format="uniform", output_path=tmp_path / "four", **FAST)
    )
    assert mask_in(folder).sum(1).tolist() == [4] * 4
    assert tf.AutoConfig.from_pretrained(folder).num_attention_heads == 4
    tried = [line for line in said if "KV groups" in line]
    assert [line[:5] for line in tried] == ["1 x 4", "2 x 2"]
    perplexities = [float(line.split("perplexity ")[1].split()[0]) for line in tried]
    assert tf.AutoConfig.from_pretrained(folder).num_key_value_heads == 1 + (perplexities[1] < perplexities[0])
    folder, _ = export(
        filled(
            ExportConfig,
            model_name=LLAMA,
            pruning_level=0.5,
            format="uniform",
            units="heads+mlp",
            mlp_blocks=4,
            output_path=tmp_path / "half",
            **FAST,
        )
    )
    assert tf.AutoConfig.from_pretrained(folder).intermediate_size == 352 // 2


def test_compact_loads_with_this_package(tmp_path):
    config = filled(
        ExportConfig, model_name=GPT2, pruning_level=0.25, format="compact", output_path=tmp_path / "it", **FAST
    )
    folder, said = export(config)
    model = tf.AutoModelForCausalLM.from_pretrained(folder)
    dense = load_model(GPT2).model
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in dense.parameters())
    assert any("import plasticity_env" in line for line in said)


def test_a_trained_controller_chooses_the_heads(tmp_path):
    from plasticity_env.controllers import ANNController

    ANNController().save(tmp_path / "controller")
    config = filled(
        ExportConfig,
        model_name=GPT2,
        pruning_level=0.25,
        strategy=str(tmp_path / "controller"),
        output_path=tmp_path / "it",
        **FAST,
    )
    assert int((~mask_in(export(config)[0])).sum()) == 4


@pytest.mark.parametrize("where", ["folder", "file.pth"])
@pytest.mark.parametrize("form", ["masked", "uniform", "compact"])
def test_a_checkpoint_of_a_pruned_model_is_exported_as_it_is(tmp_path, where, form):
    loaded = load_model(GPT2)
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[:, 1:3] = True
    loaded.model.prune(mask)
    weight = loaded.model.sites[0].output_weight()
    loaded.model.apply_repair(0, weight * 1.1, None)
    save_plastic(loaded.model, tmp_path / where, loaded.tokenizer, loaded.name)
    folder, _ = export(filled(ExportConfig, model_name=str(tmp_path / where), format=form, output_path=tmp_path / "it"))
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        found = tf.AutoModelForCausalLM.from_pretrained(folder).eval()(ids).logits
        assert torch.allclose(found, loaded.model(ids).logits, atol=1e-4)
    assert torch.equal(mask_in(folder), ~mask)
    assert (folder / "tokenizer.json").exists()


def checkpoint(tmp_path, tokenizer=None, **pruned):
    loaded = load_model(GPT2)
    mask = torch.zeros(4, 4, dtype=torch.bool)
    for layer, heads in pruned.items():
        mask[int(layer[1:]), heads] = True
    loaded.model.prune(mask)
    save_plastic(loaded.model, tmp_path / "pruned", tokenizer)
    return {"model_name": str(tmp_path / "pruned")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "maskd"}, "unknown format 'maskd' (did you mean 'masked'?)"),
        ({"strategy": "ann:fischer"}, "fischer"),
        ({"strategy": "fischer"}, "unknown strategy 'fischer' (did you mean 'fisher'?)"),
        ({"repair": "glue"}, "unknown repair 'glue'"),
        ({"dtype": "int8"}, "unknown dtype 'int8'"),
        ({"units": "mlp"}, "unknown units 'mlp'"),
        ({"pruning_level": 1.0}, "pruning_level must lie in [0, 1)"),
        ({"calibration_blocks": 0}, "calibration_blocks must be a whole number of at least 1"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
        ({"uniform_heads": 2}, "--uniform_heads is for --format uniform"),
        ({"uniform_heads": 2, "format": "uniform", "pruning_level": 0.5}, "instead of --pruning_level"),
        ({"rounds": 2, "format": "uniform"}, "prunes in one round"),
        ({"model_name": "nobody/nothing"}, "embedded bard-gpt2-4x4"),
        ({"device": "cuda:7"}, "device"),
        ({"uniform_heads": 3, "format": "uniform"}, "GPT2Config of width 128: nearest are 2 or 4"),
        ({"uniform_heads": 9, "format": "uniform"}, "nearest are 4;"),
        ({"model_name": LLAMA, "uniform_heads": 5, "format": "uniform"}, "with 2 KV groups: nearest are 4 or 6"),
        ({"pruning_level": 0.25, "format": "uniform"}, "3 heads per layer cannot be expressed"),
        ({"pruning_level": 0.25, "max_length": 4096}, "exceeds the 512 positions"),
        ({"pruning_level": 0.25, "dataset": "nobody/nothing"}, "without a network"),
        ({"units": "heads+mlp", "mlp_blocks": 7}, "do not make 7 equal blocks"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(tmp_path, arguments, message):
    with pytest.raises(InputError) as error:
        export(filled(ExportConfig, **{"model_name": GPT2, "output_path": tmp_path / "a" / "b", **FAST, **arguments}))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_ragged_checkpoint_is_no_uniform_model(tmp_path):
    ragged = checkpoint(tmp_path, L0=[1], L2=[0, 3])
    with pytest.raises(InputError, match=r"layers keep 3, 4, 2, 4 heads.*--uniform_heads.*--format compact"):
        export(filled(ExportConfig, **ragged, format="uniform", output_path=tmp_path / "it"))
    with pytest.raises(InputError, match="is pruned already"):
        export(filled(ExportConfig, **ragged, pruning_level=0.5, output_path=tmp_path / "it"))
    assert not (tmp_path / "it").exists()


def test_a_checkpoint_without_a_tokenizer_is_written_but_not_pruned(tmp_path):
    dense = checkpoint(tmp_path)
    with pytest.raises(InputError, match="without a tokenizer"):
        export(filled(ExportConfig, **dense, pruning_level=0.5, output_path=tmp_path / "it"))
    assert (export(filled(ExportConfig, **dense, output_path=tmp_path / "it"))[0] / "model.safetensors").exists()


def test_a_damaged_checkpoint(tmp_path):
    (tmp_path / "model.pth").write_bytes(b"PK")
    with pytest.raises(InputError, match="damaged"):
        export(filled(ExportConfig, model_name=str(tmp_path / "model.pth"), output_path=tmp_path / "it"))


def test_what_is_there_is_not_overwritten(tmp_path):
    config = filled(ExportConfig, model_name=GPT2, output_path=tmp_path / "it")
    (tmp_path / "it").mkdir()  # an empty folder may be filled
    export(config)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "it").iterdir()}
    with pytest.raises(InputError, match="exists already"):
        export(config)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "it").iterdir()} == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        export(filled(ExportConfig, model_name=GPT2, output_path=tmp_path / "file"))


def test_a_new_folder_under_runs_by_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, _ = export(filled(ExportConfig, model_name=GPT2))
    assert folder.parent == Path("runs")
    assert folder.is_dir()


def test_a_stock_folder_of_any_architecture_can_be_exported(tmp_path):
    loaded = load_model(GPT2)
    stock = build("qwen3")
    stock.resize_token_embeddings(len(loaded.tokenizer))
    stock.save_pretrained(tmp_path / "stock")
    loaded.tokenizer.save_pretrained(tmp_path / "stock")
    folder, _ = export(filled(ExportConfig, model_name=str(tmp_path / "stock"), output_path=tmp_path / "it"))
    assert tf.AutoConfig.from_pretrained(folder).model_type == "qwen3"

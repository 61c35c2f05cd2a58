"""The README.md of a compacted model's folder: what it says to type loads the model, and its LoRA targets are projections."""

from __future__ import annotations

import ast
import re

import pytest
import torch

from plasticity_env import PlasticModel
from plasticity_env.model.compact.folder_readme import lora_targets
from plasticity_env.model.compact.modules import Remainder
from plasticity_env.model.projections import is_projection
from tests.conftest import build


def compacted(architecture, layers_off=0, mlp_blocks=0):
    model = PlasticModel(build(architecture), mlp_blocks=mlp_blocks)
    mask = torch.zeros(model.shape, dtype=torch.bool)
    mask[:layers_off] = True
    mask[1, 0] = True
    model.prune(mask)
    return model.compact()


def test_what_the_readme_says_to_type_loads_the_model(tmp_path, ids):
    model = compacted("llama")
    model.save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "Of 8 heads in 2 layers, 7 are left (by layer: 4, 3)" in text
    load, train = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {}
    exec(load.replace("path/to/this/folder", str(tmp_path)), names)
    torch.testing.assert_close(names["model"](ids).logits, model(ids).logits)
    said = ast.literal_eval(re.search(r"target_modules=(\[.*?\])", train).group(1))
    assert said == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert "exclude_modules" not in train


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "opt", "gpt_neox", "mixtral", "phi3"])
def test_targets_are_projections_but_for_the_excluded(architecture):
    model = compacted(architecture, layers_off=1)
    targets, excluded = lora_targets(model)
    named = {name: module for name, module in model.named_modules() if name.rpartition(".")[2] in targets}
    assert all(is_projection(module) != (name in excluded) for name, module in named.items())
    assert [type(model.get_submodule(name)) for name in excluded] == [Remainder]


def test_somebodys_own_readme_stays(tmp_path):
    model, path = compacted("gpt2"), tmp_path / "README.md"
    model.save_pretrained(tmp_path)
    written = path.read_text()
    path.write_text(written.replace("7 are left", "all are left"))
    model.save_pretrained(tmp_path)
    assert path.read_text() == written
    path.write_text("My notes.")
    model.save_pretrained(tmp_path)
    assert path.read_text() == "My notes."
    model.save_pretrained(tmp_path / "other", is_main_process=False)
    assert not (tmp_path / "other" / "README.md").exists()

"""Each call of the original documents' own snippets, as they write it; only the import lines are ours."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer

import plasticity_env
from plasticity_env import (
    InputError,
    PlasticModel,
    PruningMode,
    PruningModule,
    apply_pruning_mask,
    calculate_head_entropy,
    calculate_head_gradients,
    controllers,
    generate_pruning_mask,
    grow_attention_heads_gradually,
    load_model,
    run_plasticity_loop,
    safe_tensor_imshow,
    visualize_head_gradients,
    visualize_pruning_decisions,
)
from plasticity_env.controllers import ANNController, HeadNetwork, NetworkConfig
from tests.controllers.test_controllers import observe

NAME = "bard-gpt2-4x4"
GRADS = torch.tensor([[0.5, 0.1, 0.9], [0.2, 0.8, 0.05], [0.3, 0.4, 0.7]])


@pytest.fixture
def folder() -> Path:
    return Path(plasticity_env.__file__).parent / "zoo" / "models" / NAME


def test_gradients_are_drawn_with_their_pruned_heads():
    figure = visualize_head_gradients(GRADS, pruned_heads=[(0, 1), (1, 2)], title="Gradients and pruned heads")
    assert figure.axes[0].lines[-1].get_xydata().round().tolist() == [[1, 0], [2, 1]]  # crosses: (head, layer)
    assert figure.get_suptitle() == "Gradients and pruned heads"
    mask = GRADS < 0.2
    same = visualize_head_gradients(GRADS, pruned_heads=mask)
    assert same.axes[0].lines[-1].get_xydata().round().tolist() == [[1, 0], [2, 1]]
    with pytest.raises(InputError, match="no head 3 in layer 0"):
        visualize_head_gradients(GRADS, pruned_heads=[(0, 3)])
    with pytest.raises(InputError, match="pass one of them"):
        visualize_head_gradients(GRADS, pruned_heads=mask, active=~mask)


def test_a_picture_takes_a_colour_bar():
    plt.figure()
    try:
        image = safe_tensor_imshow(GRADS.requires_grad_(False), "Gradient norms")
        bar = plt.colorbar(image, label="norm")
        assert image.axes is plt.gcf().axes[0]
        assert image.get_array().tolist() == GRADS.tolist()
        assert image.axes.get_title(loc="left") == "Gradient norms"
        assert (bar.vmin, bar.vmax) == pytest.approx((0.05, 0.9))
        assert len(plt.gcf().axes) == 2  # the picture and one bar
    finally:
        plt.close()


def test_a_mask_comes_from_gradients_by_name():
    mask = generate_pruning_mask(GRADS, 0.2, strategy="gradient")
    assert mask.nonzero().tolist() == [[0, 1], [1, 2]]  # round(0.2 * 9): the two lowest
    high = generate_pruning_mask(GRADS, 0.2, strategy="entropy", prune_entropy="high")
    assert high.nonzero().tolist() == [[0, 2], [1, 1]]
    random = [generate_pruning_mask(GRADS, 0.4, "random", generator=torch.Generator().manual_seed(s)) for s in (1, 2)]
    assert not torch.equal(*random)
    with pytest.raises(InputError, match="prune_entropy='high' or 'low', got 'auto'"):
        generate_pruning_mask(GRADS, 0.2, strategy="entropy")
    with pytest.raises(InputError, match="unknown pruning strategy 'grad'"):
        generate_pruning_mask(GRADS, 0.2, strategy="grad")


def test_decisions_are_drawn_values_first():
    mask = GRADS < 0.2
    figure = visualize_pruning_decisions(GRADS, mask)
    assert np.asarray(figure.axes[0].images[0].get_array()).tolist() == GRADS.numpy().tolist()
    panel = next(axes for axes in figure.axes if "active afterwards" in axes.get_title(loc="left"))
    assert panel.get_title(loc="left") == "7 of 9 heads active afterwards"
    with pytest.raises(InputError, match="the values come first"):
        visualize_pruning_decisions(GRADS, mask, values=GRADS)


def test_entropy_comes_from_attention_tensors(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    ids = torch.arange(48).view(2, 24)
    attentions = model(input_ids=ids, output_attentions=True).attentions
    for normalized in (False, True):
        found = calculate_head_entropy(attentions, normalized=normalized)
        assert torch.allclose(found, calculate_head_entropy(model, ids, normalized=normalized), atol=1e-5)
    assert torch.allclose(calculate_head_entropy(attentions[2]), calculate_head_entropy(attentions)[2:3])
    assert torch.equal(calculate_head_entropy(torch.stack(attentions, 1)), calculate_head_entropy(attentions))
    even = torch.full((1, 2, 4, 4), 0.25)  # nothing is hidden: four keys each
    assert calculate_head_entropy([even]).tolist() == [pytest.approx([np.log(4)] * 2)]
    next_key = torch.tensor([[[[0.25, 0.75], [0.5, 0.5]]]])  # the first query sees no more than the key behind its own
    nats = (np.log(4) - 0.75 * np.log(3) + np.log(2)) / 2
    assert float(calculate_head_entropy([next_key])) == pytest.approx(nats, rel=1e-5)
    sums = ((torch.rand(1, 2, 4, 4),), "sum to 1"), ((0.9 * even,), "sum to 1")
    for wrong, said in (*sums, ((None,), "eager"), ((), "output_attentions=True")):
        with pytest.raises(InputError, match=said):
            calculate_head_entropy(wrong)


def test_a_mode_is_read_in_capitals():
    assert PruningMode("COMPRESSED") is PruningMode.COMPRESSED
    assert PruningMode.parse("Adaptive") is PruningMode.ADAPTIVE
    with pytest.raises(ValueError, match="frozen"):
        PruningMode("frozen")


def test_heads_are_grown_in_a_pruning_module():
    pruning_module = PruningModule(NAME)
    pruning_module.zero_heads([(0, 1), (2, 3), (3, 0)])
    grown, added_count, added_heads, warmup_schedule = grow_attention_heads_gradually(
        pruning_module,
        params=pruning_module.params,
        active_heads=pruning_module.active_heads,
        growth_percentage=0.1,
        strategy="gradient_sensitivity",
        initial_scale=0.01,
    )
    assert grown is pruning_module.model
    assert added_count == 2  # round(0.1 * 16)
    assert set(added_heads) < {(0, 1), (2, 3), (3, 0)}
    assert warmup_schedule(0) == 0.01
    assert [grown.gates[at].item() for at in added_heads] == pytest.approx([0.01, 0.01])


def test_growth_starts_from_the_weights_and_heads_that_are_named():
    module = PruningModule(NAME)
    name, weight = next(iter(module.params.items()))
    changed = weight.detach() + 1
    others = [where for where in module.active_heads if where not in ((0, 0), (1, 1))]
    result = grow_attention_heads_gradually(
        module, params={name: changed}, active_heads=others, growth_percentage=0.05, strategy="random"
    )
    assert set(result.added_heads) < {(0, 0), (1, 1)}
    assert torch.equal(module.params[name], changed)
    before, active = changed.clone(), module.active_heads
    for wrong, said in (
        ({"params": {"x": changed}}, "unknown weight in params 'x'"),
        ({"params": {name: changed[:1]}}, "must be of shape"),
        ({"active_heads": [(9, 9)]}, "names head 9 of layer 9: layers"),
        ({"active_heads": [(0, 0), (1, 1)]}, "which is pruned"),
        ({"params": {name: weight * 2}, "growth_percentage": 2.0}, "growth_percentage 2.0 is outside"),
    ):
        with pytest.raises(InputError, match=said):
            grow_attention_heads_gradually(module, strategy="random", **wrong)
        assert torch.equal(module.params[name], before)  # a refused call changes nothing
        assert module.active_heads == active


def test_a_controller_is_made_from_its_weights_file(tmp_path):
    torch.manual_seed(3)
    path = tmp_path / "controller.pt"
    saved = ANNController(HeadNetwork(NetworkConfig()))
    torch.save(saved.network.state_dict(), path)
    made = controllers.make(str(path))
    seen = observe({"fisher_z": np.linspace(-2, 2, 12)})
    assert np.array_equal(made.act(seen), saved.act(seen))
    assert controllers.make(str(path), sparsity=0.5).sparsity == 0.5
    narrow = ANNController(HeadNetwork(NetworkConfig(width=8)))
    torch.save(narrow.network.state_dict(), path)
    with pytest.raises(InputError, match="give the controller's folder, which states its shape"):
        controllers.make(str(path))
    narrow.save(tmp_path / "controller")  # as an online run leaves it beside the file
    assert controllers.make(str(path)).network.config.width == 8
    torch.save({"network": Path("x")}, path)  # would run code: weights_only refuses it
    with pytest.raises(InputError, match="holds no weights of a controller"):
        controllers.make(str(path))


def test_the_last_documents_example_runs_on_a_stock_model(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    lines = ["To be, or not to be: that is the question.", "Whether 'tis nobler in the mind to suffer"] * 8
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    words = tokenizer(lines, padding="max_length", truncation=True, max_length=16, return_tensors="pt")
    rows = [{name: words[name][row] for name in ("input_ids", "attention_mask")} for row in range(len(lines))]
    train_dataloader, eval_dataloader = DataLoader(rows, batch_size=4, shuffle=True), DataLoader(rows, batch_size=4)
    results = run_plasticity_loop(
        model=model,
        train_dataloader=train_dataloader,
        eval_dataloader=eval_dataloader,
        pruning_level=0.2,
        strategy="gradient",
        learning_rate=5e-5,
        training_steps=4,
    )
    assert results["model"].model is model
    assert results["pruned"]["sparsity"] == pytest.approx(3 / 16)
    figure = visualize_head_gradients(
        results["grad_norm_values"], pruned_heads=results["pruned_heads"], title="Head gradients and pruned heads"
    )
    assert "3 of 16 heads pruned" in figure.axes[0].get_title(loc="left")


def test_what_a_strategy_ranks_by_is_returned_beside_the_weight_norms():
    loaded = load_model(NAME)
    ids = torch.arange(64).view(4, 16)
    gates = calculate_head_gradients(loaded.model, ids, kind="gate")
    norms = calculate_head_gradients(loaded.model, ids)
    results = run_plasticity_loop(loaded.model, ids, ids, 0.25, "gradient", training_steps=0, batch_size=4)
    assert torch.allclose(results["gate_gradient_values"], gates)
    assert torch.allclose(results["grad_norm_values"], norms, rtol=1e-4)
    lowest = [divmod(int(at), 4) for at in gates.flatten().argsort()[:4]]
    assert sorted(results["pruned_heads"]) == sorted(lowest)


def test_a_mask_is_applied_to_a_stock_model(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    mask = generate_pruning_mask(
        calculate_head_gradients(model, torch.arange(32).view(2, 16)), 0.2, strategy="gradient"
    )
    plastic = apply_pruning_mask(model, mask)
    assert isinstance(plastic, PlasticModel)
    assert torch.equal(~plastic.active, mask)

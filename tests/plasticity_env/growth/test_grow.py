"""Growing heads gradually: how many, which, and that the model hardly notices at first."""

from __future__ import annotations

import math

import pytest
import torch

from plasticity_env import InputError, PlasticModel, measure
from plasticity_env.growth import (
    GROWTH_STRATEGIES,
    INITIAL_WEIGHTS,
    EntropyGapStrategy,
    WarmupSchedule,
    grow_attention_heads_gradually,
)
from plasticity_env.growth.visibility import mean_log_visible
from plasticity_env.signals.measure import mean_loss
from plasticity_env.strategies.pruning import HeadView
from plasticity_env.training.stream import FineTuner
from tests.conftest import build

GRADUAL = sorted(name for name, kind in INITIAL_WEIGHTS.items() if kind.gradual)
GONE = ((0, 0), (0, 1), (0, 3), (1, 2))  # the first KV group of layer 0 is dead under GQA


def heads(*pairs, shape=(2, 4)):
    mask = torch.zeros(shape, dtype=torch.bool)
    for where in pairs:
        mask[where] = True
    return mask


def pruned(architecture="gpt2", gone=GONE, **kwargs):
    model = PlasticModel(build(architecture), **kwargs)
    model.prune(heads(*gone, shape=model.shape))
    return model


def grow(model, ids, **kwargs):
    return grow_attention_heads_gradually(model, **{"growth_percentage": 0.25, "input_ids": ids, **kwargs})


@torch.no_grad()
def attention_outputs(model, ids):
    """What each layer's output projection writes, (L, B, T, E)."""
    outputs = []
    hooks = [block.output.register_forward_hook(lambda m, a, out: outputs.append(out)) for block in model.blocks]
    model(ids)
    for hook in hooks:
        hook.remove()
    return torch.stack(outputs)


@pytest.mark.parametrize("strategy", sorted(GROWTH_STRATEGIES))
@pytest.mark.parametrize("initial", sorted(INITIAL_WEIGHTS))
def test_every_strategy_grows_with_all_initial_weights(strategy, initial, ids):
    model = pruned()
    before = model.active
    same, count, added, schedule = grow(model, ids, strategy=strategy, initial_weights=initial, warmup_steps=10)
    assert same is model
    assert count == len(added) == 2  # a quarter of 8 slots
    assert torch.equal(model.active, before | heads(*added))
    assert not any(before[where] for where in added)
    for step in range(13):
        assert [float(model.scale[where]) for where in added] == pytest.approx([schedule(step)] * 2, abs=1e-6)
        model.advance_warmup()


@pytest.mark.parametrize("initial", GRADUAL)
def test_just_after_growth_the_output_moves_by_at_most_the_initial_scale(architecture, initial, ids):
    """||attention output after - before|| <= s0 ||what the new heads write when fully open||, token by token.

    It holds in the first layer that grew (its input is unchanged), whatever the architecture, exactly.
    """
    scale = 0.03
    model = pruned(architecture, ((0, 0), (0, 1)))
    before = attention_outputs(model, ids)
    _, _, added, _ = grow(model, ids, initial_weights=initial, initial_scale=scale, warmup_steps=10)
    assert added == [(0, 0), (0, 1)]
    after = attention_outputs(model, ids)
    model.advance_warmup(10)
    full = attention_outputs(model, ids)
    written = (full - before)[0].norm(dim=-1)
    moved = (after - before)[0].norm(dim=-1)
    assert float(written.min()) > 0
    assert torch.allclose(moved, scale * written, rtol=1e-2, atol=1e-5)
    assert bool((moved <= scale * written * 1.01 + 1e-5).all())


def test_an_empty_layer_before_a_norm_is_left_alone(ids):
    """Gemma-3 normalises what attention writes: the first head of a layer would come back at full size."""
    everything = tuple((0, head) for head in range(4))
    model = pruned("gemma3", (*everything, (1, 0)))
    assert grow(model, ids, growth_percentage=1.0, strategy="balanced").added_heads == [(1, 0)]
    with pytest.raises(InputError, match="revive one head"):
        grow(pruned("gemma3", everything), ids)
    assert grow(pruned("llama", everything), ids, growth_percentage=1.0).added_count == 4


@pytest.mark.parametrize("initial", GRADUAL)
def test_logits_move_in_proportion_to_a_small_initial_scale(initial, ids):
    moved = {}
    for scale in (1e-6, 1e-3, 2e-3):
        model = pruned().double()
        with torch.no_grad():
            before = model(ids).logits
            grow(model, ids, initial_weights=initial, initial_scale=scale, warmup_steps=10)
            moved[scale] = float((model(ids).logits - before).norm() / before.norm())
    assert moved[1e-6] < 1e-4
    assert moved[2e-3] / moved[1e-3] == pytest.approx(2, rel=0.05)
    assert moved[1e-3] / moved[1e-6] == pytest.approx(1000, rel=0.05)


def test_gradient_sensitivity_is_the_finite_difference_of_the_loss_at_a_closed_gate(ids):
    """Independent check: open each candidate's gate a little, alone, with the weights that it would grow with."""
    step, gains = 1e-4, {}
    for where in GONE:
        model = pruned("llama").double()
        grown = grow_attention_heads_gradually(model, 0.5, "random", input_ids=ids, warmup_steps=10**6)
        assert sorted(grown.added_heads) == sorted(GONE)  # the same seed gives the same candidates
        gates = heads(*GONE).logical_not().double()
        losses = []
        for sign in (1, -1):
            nudged = gates.clone()
            nudged[where] = sign * step
            with model.using(nudged), torch.no_grad():
                logits = model.model(ids).logits[:, :-1].log_softmax(-1)
                losses.append(-float(logits.gather(-1, ids[:, 1:, None]).mean()))
        gains[where] = (losses[1] - losses[0]) / (2 * step)
    best = sorted(gains, key=lambda where: -gains[where])
    for share, count in ((0.125, 1), (0.25, 2), (0.375, 3)):
        added = grow_attention_heads_gradually(pruned("llama"), share, input_ids=ids).added_heads
        assert sorted(added) == sorted(best[:count])


def test_what_is_measured_is_what_grows(ids):
    model = pruned("llama")
    grow(model, ids, growth_percentage=0.5, initial_weights="random", warmup_steps=10**6)
    revive = measure(model, ids).gate_gradient  # gates are at 0.01 now, so the gradient is that at 0 but for 1%
    other = pruned("llama")
    one = grow(other, ids, growth_percentage=0.125)
    assert one.added_heads == [divmod(int(torch.where(heads(*GONE), -revive, -torch.inf).argmax()), 4)]
    for mine, theirs in zip(
        other.pieces(*one.added_heads[0], "unit"), model.pieces(*one.added_heads[0], "unit"), strict=True
    ):
        assert torch.equal(mine.data, theirs.data)


def test_a_candidate_that_is_not_chosen_leaves_no_trace(ids, architecture):
    model = pruned(architecture)
    with torch.no_grad():
        stock = PlasticModel(build(architecture))(ids).logits
    _, _, added, _ = grow(model, ids, growth_percentage=0.125, initial_weights="copy")
    others = [where for where in GONE if where not in added]
    reference = pruned(architecture)
    for where in others:
        for mine, theirs in zip(model.pieces(*where, "unit"), reference.pieces(*where, "unit"), strict=True):
            assert torch.equal(mine.data, theirs.data)
    model.prune(heads(*added))
    model.load_state_dict(build(architecture).state_dict())
    model.revive(~model.active)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, stock)


def test_entropy_gap_grows_in_the_most_focused_layer(ids):
    model = pruned(gone=((0, 0), (1, 2)))
    signals, visible = measure(model, ids), mean_log_visible(model, ids)
    kept = model.active
    gap = [float(visible[layer] - signals.entropy[layer][kept[layer]].mean()) for layer in range(2)]
    added = grow(model, ids, growth_percentage=0.125, strategy="entropy_gap").added_heads
    assert added == [GONE[0] if gap[0] > gap[1] else GONE[3]]


def test_entropy_gap_puts_a_layer_without_heads_first():
    view = HeadView(
        heads((0, 0), (0, 1)),
        4,
        torch.Generator(),
        measure(pruned(), torch.ones(1, 8).long()),
        torch.tensor([1.0, 1.0]),
    )
    priority = EntropyGapStrategy().priority(view)
    assert bool((priority[1] == 1.0).all())
    assert bool((priority[0] < 1.0).all())


def test_mean_log_visible_counts_the_keys_of_each_query(ids):
    dense = mean_log_visible(PlasticModel(build("gpt2")), ids)
    assert dense.tolist() == pytest.approx([sum(math.log(t) for t in range(2, 13)) / 11] * 2, rel=1e-6)
    window = mean_log_visible(PlasticModel(build("mistral")), ids)  # sliding window of 6
    assert window.tolist() == pytest.approx([sum(math.log(min(t, 6)) for t in range(2, 13)) / 11] * 2, rel=1e-6)


def test_balanced_fills_the_emptiest_layer_one_head_at_a_time():
    model = pruned(gone=((0, 0), (0, 1), (0, 2), (1, 3)))
    assert grow(model, None, growth_percentage=0.25, strategy="balanced").added_heads == [(0, 0), (0, 1)]
    assert model.active.sum(1).tolist() == [3, 3]
    assert grow(model, None, growth_percentage=0.25, strategy="balanced").added_count == 2
    assert bool(model.active.all())


def test_random_depends_on_the_seed_alone():
    def draw(seed):
        model = pruned(gone=tuple((layer, head) for layer in range(2) for head in range(1, 4)))
        generator = torch.Generator().manual_seed(seed)
        return tuple(grow(model, None, strategy="random", generator=generator).added_heads)

    assert draw(0) == draw(0)
    assert len({draw(seed) for seed in range(8)}) > 1


def test_a_share_is_of_all_slots_and_stops_at_what_is_pruned(ids):
    assert grow(pruned(), ids, growth_percentage=0.01).added_count == 1
    assert grow(pruned(), ids, growth_percentage=0.375).added_count == 3
    assert grow(pruned(), ids, growth_percentage=1.0).added_count == 4


def test_a_repaired_model_keeps_its_repair(ids):
    model = pruned("gpt2")
    better = model.blocks[0].output_weight() * 1.5
    better[model.blocks[0].kept_inputs(model.active).logical_not()] = model.blocks[0].output_weight()[
        model.blocks[0].kept_inputs(model.active).logical_not()
    ]
    model.apply_repair(0, better, torch.full((64,), 0.3))
    with torch.no_grad():
        repaired = model(ids).logits
        grow(model, ids, growth_percentage=0.5, initial_scale=1e-6)
        assert torch.allclose(model(ids).logits, repaired, atol=1e-3)
        model.undo_repair()
        kept = model.blocks[0].kept_inputs(heads((0, 2), (1, 0), (1, 1), (1, 3)))
        assert torch.equal(
            model.blocks[0].output_weight()[kept], PlasticModel(build("gpt2")).blocks[0].output_weight()[kept]
        )


def test_heads_grow_and_mlp_blocks_do_not(ids):
    model = PlasticModel(build("llama"), mlp_blocks=4)
    model.prune(heads((0, 1), (0, 5), (1, 6), shape=model.shape))
    result = grow(model, ids, growth_percentage=1.0, initial_weights="copy")
    assert result.added_heads == [(0, 1)]
    assert not model.active[0, 5]


def test_grown_heads_learn_while_pruned_ones_stay(ids):
    model = pruned("llama")
    _, _, added, _ = result = grow(model, ids, growth_percentage=0.25, warmup_steps=4)
    tuner = FineTuner(model, ids, torch.arange(3).expand(8, 3), 1e-2)
    before = mean_loss(model, ids)
    grown = model.pieces(*added[0], "unit")[0].data.clone()
    tuner.run(4)
    assert bool((model.scale == 1).all())
    assert result.warmup_schedule(4) == 1.0
    assert not torch.equal(model.pieces(*added[0], "unit")[0].data, grown)
    assert mean_loss(model, ids) < before


def test_the_schedule_is_the_line_of_the_formula():
    schedule = WarmupSchedule(0.01, 50)
    assert [schedule(t) for t in (0, 25, 50, 1000)] == pytest.approx([0.01, 0.505, 1.0, 1.0])
    assert WarmupSchedule(0.5, 0)(0) == 1.0
    with pytest.raises(InputError, match="negative"):
        schedule(-1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"growth_percentage": 0.0}, r"outside \(0, 1\]"),
        ({"growth_percentage": 10}, r"outside \(0, 1\]"),
        ({"growth_percentage": float("nan")}, r"outside \(0, 1\]"),
        ({"strategy": "gradient_sensitvity"}, "did you mean 'gradient_sensitivity'"),
        ({"initial_weights": "copies"}, "did you mean 'copy'"),
        ({"initial_scale": 0.0}, r"outside \(0, 1\]"),
        ({"warmup_steps": -1}, "at least 0"),
        ({"warmup_steps": 2.5}, "whole number"),
        ({"input_ids": None}, "calibration text"),
        ({"input_ids": None, "strategy": "random", "initial_weights": "transfer"}, "calibration text"),
    ],
)
def test_bad_input_is_one_sentence_and_the_model_stays(change, message, ids):
    model = pruned()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match=message):
        grow(model, change.pop("input_ids", ids), **change)
    assert torch.equal(model.active, heads(*GONE).logical_not())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_without_a_free_slot_is_refused(ids):
    with pytest.raises(InputError, match="prune heads first"):
        grow(PlasticModel(build("gpt2")), ids)
    with pytest.raises(InputError, match="wrap it with PlasticModel"):
        grow(build("gpt2"), ids)
    with pytest.raises(InputError, match="compressed mode"):
        grow(pruned(mode="compressed"), ids)


@pytest.mark.parametrize(
    "initial",
    [name if name == "random" else pytest.param(name, marks=pytest.mark.slow) for name in sorted(INITIAL_WEIGHTS)],
)
def test_the_environment_grows_with_the_initial_weights_it_is_told(make_env, initial, tmp_path):
    """Slow but for one kind: an episode that trains the model for each."""
    (tmp_path / "text.txt").write_text("To be, or not to be, that is the question. " * 400)
    settings = {"dataset": str(tmp_path / "text.txt"), "repair": "none", "batch_size": 2}
    env = make_env(train_steps=1, growth_init=initial, grow_warmup_steps=100, **settings)
    env.reset(seed=0)
    edits = torch.zeros(16, dtype=torch.long)
    edits[[5, 9]] = 1  # prune head 1 of layer 1, and of its mirror image, layer 2
    env.step(edits.numpy())
    saved = env.unwrapped.model.saved_weights(2, 1)
    edits = torch.zeros(16, dtype=torch.long)
    edits[5] = 3
    env.step(edits.numpy())
    model = env.unwrapped.model
    assert bool(model.active[1, 1])
    distance = (model.pieces(1, 1, "unit")[0].data - saved[0]).norm() / saved[0].norm()
    assert (float(distance) < 0.2) == (initial == "transfer")


def test_an_unknown_growth_init_is_refused(make_env):
    with pytest.raises(InputError, match="unknown initial weights 'transfr'"):
        make_env(growth_init="transfr")

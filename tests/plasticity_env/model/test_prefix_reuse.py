"""Prefix reuse: whatever changed in between, a resumed forward gives the loss of a whole one, to the bit."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from plasticity_env import InputError, PlasticModel
from plasticity_env.growth import UNetSkip
from plasticity_env.model.prefix_reuse import BATCHES, PrefixCache
from plasticity_env.repair import repair_sites
from plasticity_env.signals.measure import gather, mean_loss
from tests.conftest import SMALL, build

BIG = 2**30


def masks(model, seed, count=6):
    """A walk of single edits through masks that keep a head."""
    random, mask = np.random.default_rng(seed), torch.ones(model.shape, dtype=torch.bool)
    for _ in range(count):
        layer, head = int(random.integers(model.shape[0])), int(random.integers(model.shape[1] - 1))
        mask = mask.clone()
        mask[layer, head] ^= True
        yield mask


def test_losses_are_those_of_whole_forwards(architecture, ids):
    model = PlasticModel(build(architecture))
    cache = PrefixCache(model, BIG)
    for mask in masks(model, 3):
        model.set_active(mask)
        assert mean_loss(model, ids, 2, cache, "a") == mean_loss(model, ids, 2)
    assert cache.reused > 0


def test_mlp_blocks_and_repairs_are_part_of_what_must_not_have_changed(ids):
    model = PlasticModel(build("llama"), mlp_blocks=4)
    statistics = gather(model, ids)
    cache = PrefixCache(model, BIG)
    for mask in masks(model, 5, 8):
        model.set_active(mask)
        for _ in range(2):  # without repair, then with it
            assert mean_loss(model, ids, 8, cache, "a") == mean_loss(model, ids, 8)
            repair_sites(model, "least_squares", statistics)
        assert mean_loss(model, ids, 8, cache, "a") == mean_loss(model, ids, 8)
    assert cache.reused > 0


def weights(model):
    model.blocks[0].output_weight()[:16] *= -1
    model.weights_changed()


def repaired(model):
    model.apply_repair(1, model.sites[1].output_weight() * 1.5, None)


def bias(model):
    model.apply_repair(0, None, torch.linspace(-1, 1, 64))  # one constant would vanish in the layer norm


def scale(model):
    mask = torch.zeros(model.shape, dtype=torch.bool)
    mask[0, 1] = True
    model.prune(mask)
    model.grow(mask, initial_scale=0.5, warmup_steps=10, generator=torch.Generator().manual_seed(0))


def warmed(model):
    scale(model)
    model.advance_warmup(3)


def rounded(model):
    model.bfloat16()


@pytest.mark.parametrize("change", [weights, repaired, bias, scale, warmed, rounded])
def test_nothing_stale_is_reused(change, ids):
    """Logits spread widely, so that each change moves the loss (near 10) by far more than float32 rounds it (1e-6)."""
    model = PlasticModel(build("gpt2"))
    model.model.transformer.ln_f.weight.data *= 20
    cache = PrefixCache(model, BIG)
    mean_loss(model, ids, 8, cache, "a")
    before = mean_loss(model, ids, 8, cache, "a")
    assert cache.reused == 1  # the second one ran only the last layer
    change(model)
    after = mean_loss(model, ids, 8, cache, "a")
    assert cache.reused == 1
    assert after == mean_loss(model, ids, 8)
    assert abs(after - before) > 1e-4


def test_a_warm_up_that_goes_on_is_noticed(ids):
    model = PlasticModel(build("gpt2"))
    cache = PrefixCache(model, BIG)
    scale(model)
    for _ in range(3):
        assert mean_loss(model, ids, 8, cache, "a") == mean_loss(model, ids, 8)
        model.advance_warmup(2)


def test_batches_have_entries_of_their_own(ids):
    model = PlasticModel(build("gpt2"))
    cache = PrefixCache(model, BIG)
    other = ids.flip(1)
    for name, tokens in (("a", ids), ("b", other), ("a", ids), ("b", other)):
        assert mean_loss(model, tokens, 8, cache, name) == mean_loss(model, tokens, 8)
    assert cache.reused == 2


@pytest.mark.parametrize(("states", "kept"), [(0, 0), (1, 1), (2, 1), (3, 3), (9, 3)])
def test_the_limit_holds(states, kept):
    model = PlasticModel(_deep())
    tokens = torch.randint(0, 128, (2, 8), generator=torch.Generator().manual_seed(0))
    one = tokens.numel() * 32 * 4  # bytes of the hidden states of one layer
    cache = PrefixCache(model, states * one)
    for mask in masks(model, 1, 9):
        model.set_active(mask)
        assert mean_loss(model, tokens, 8, cache, "a") == mean_loss(model, tokens, 8)
        assert cache.nbytes == kept * one  # of layers 1 to 3; with less room of every second, or third
    assert (cache.reused > 0) == (states > 0)


def test_training_mode_and_gradients_run_whole_forwards(ids):
    model = PlasticModel(build("gpt2"))
    cache = PrefixCache(model, BIG)
    with cache.resumed("a"):
        model(input_ids=ids)
    model.train()
    mean_loss(model, ids, 8, cache, "a")
    assert cache.nbytes == cache.run == 0


def test_layers_that_someone_listens_to_run():
    model = PlasticModel(_deep())
    skip = UNetSkip(model)
    skip.gates.data.fill_(0.5)
    tokens = torch.randint(0, 128, (2, 8), generator=torch.Generator().manual_seed(0))
    cache = PrefixCache(model, BIG)
    for _ in range(2):
        assert mean_loss(model, tokens, 8, cache, "a") == mean_loss(model, tokens, 8)
    assert cache.run == 0


def _deep():
    import transformers as tf

    torch.manual_seed(0)
    config = tf.GPT2Config(vocab_size=128, n_embd=32, n_layer=4, n_head=2, bos_token_id=0, eos_token_id=0)
    return tf.AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("kwargs", [{}, {"reward": "kl"}, {"repair": "sequential"}, {"units": "heads+mlp"}])
def test_episodes_are_the_same_with_and_without(kwargs, small_text):
    traces, environments = [], []
    for prefix_mb in (256, 0):
        env = gym.make(
            "plasticity/HeadEdit-v1",
            text=small_text,
            **{**SMALL, "residual_signal": False, "horizon": 9, "prefix_mb": prefix_mb, **kwargs},
        ).unwrapped
        _, info = env.reset(seed=0)
        random, trace = np.random.default_rng(0), []
        for _ in range(5):
            allowed = np.flatnonzero(info["action_mask"])
            _, reward, _, _, info = env.step(int(random.choice(allowed[allowed > 0])))
            trace.append((reward, info["loss"], env.workbench.split_loss("reward", 3, env.model.active, (0, 1))))
        traces.append(trace)
        environments.append(env)
    assert traces[0] == traces[1]
    with_reuse, without = (env.workbench.prefix for env in environments)
    assert with_reuse.reused > 0
    assert without.nbytes == without.reused == 0


def test_a_training_environment_keeps_none(make_env):
    env = make_env(train_steps=1, batch_size=2).unwrapped
    assert env.workbench.prefix.limit == 0


def test_a_negative_size_is_refused():
    with pytest.raises(InputError, match=r"prefix_mb must lie in \[0, "):
        gym.make("plasticity/Heads-v1", **{**SMALL, "prefix_mb": -1})


def test_only_the_batches_read_last_are_kept():
    model = PlasticModel(_deep())
    ids = torch.randint(0, 128, (4, 8), generator=torch.Generator().manual_seed(0))
    cache = PrefixCache(model, BIG)
    for name in range(3 * BATCHES):
        mean_loss(model, ids, 2, cache, name)  # two forwards each
        if name == BATCHES - 1:
            full = cache.nbytes
    assert cache.nbytes == full
    cache.reused = 0
    mean_loss(model, ids, 2, cache, 2 * BATCHES)  # the oldest that is left
    assert cache.reused > 0
    cache.reused = 0
    mean_loss(model, ids, 2, cache, 2 * BATCHES - 1)
    assert cache.reused == 0

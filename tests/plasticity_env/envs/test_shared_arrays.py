"""Models as arrays: the same model again, one copy of the weights, and nobody writes into it."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

import plasticity_env  # noqa: F401
from plasticity_env import load_model
from plasticity_env.envs.shared_arrays import pack
from tests.conftest import SMALL

MODELS = ("bard-gpt2-4x4", "bard-llama-4x8")


@pytest.fixture
def packed(small_text):
    def make(name="bard-gpt2-4x4", splits=("calibration", "reward"), **kwargs):
        return pack(load_model(name, **kwargs), small_text, splits)

    return make


def sent(packed):
    """What another process gets: through pickle, the arrays read-only and where they lie."""
    buffers = []
    data = pickle.dumps(packed, protocol=5, buffer_callback=buffers.append)
    shared = [memoryview(buffer.raw()).toreadonly() for buffer in buffers]
    return pickle.loads(data, buffers=shared), len(data)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("writable", [False, True])
def test_the_same_logits(packed, small_text, name, writable):
    arrived, rest = sent(packed(name))
    loaded, text = arrived.open(writable)
    ids = small_text.blocks("reward")[:2]
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(ids).logits, load_model(name).model(ids).logits)  # arrays lie elsewhere
    assert torch.equal(text.blocks("calibration"), small_text.blocks("calibration"))
    assert loaded.name == name
    assert loaded.tokenizer("To be") == load_model(name).tokenizer("To be")
    assert rest < 0.02 * arrived.nbytes  # all but the arrays: sent to each process


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_read_where_they_lie_and_tied_ones_stay_tied(packed, name):
    arrived, _ = sent(packed(name))
    model = arrived.open()[0].model
    places = {array.ctypes.data for array, _ in arrived.weights.values()}
    outputs = {id(parameter) for site in model.sites for parameter in site.output.parameters()}
    for parameter in model.parameters():
        assert (parameter.data_ptr() in places) == (id(parameter) not in outputs)
    original = load_model(name).model
    assert len(list(model.parameters())) == len(list(original.parameters()))
    assert sum(array.nbytes for array in {id(a): a for a, _ in arrived.weights.values()}.values()) == sum(
        parameter.nbytes for parameter in original.parameters()
    )
    writable = arrived.open(writable=True)[0].model
    assert not any(parameter.data_ptr() in places for parameter in writable.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_types_of_weights(packed, dtype):
    packed_model = packed(dtype=dtype)
    loaded, original = sent(packed_model)[0].open()[0], load_model("bard-gpt2-4x4", dtype=dtype)
    state = loaded.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in original.model.state_dict().items())
    assert loaded.model.dtype == dtype


@pytest.mark.parametrize(
    ("repair", "units"),
    [
        *[(repair, "heads") for repair in ("none", "bias", "least_squares", "sequential_mlp")],
        ("least_squares", "heads+mlp"),
    ],
)
def test_episodes_equal_those_of_a_loaded_model_and_leave_the_arrays_alone(make_env, packed, small_text, repair, units):
    settings = {"repair": repair, "units": units, "mlp_blocks": 4, "reward": "kl", "horizon": 2}
    arrived, _ = sent(packed(mlp_blocks=0 if units == "heads" else 4))
    before = {name: array.copy() for name, (array, _) in arrived.weights.items()}
    loaded, text = arrived.open()
    ours, theirs = make_env(loaded=loaded, text=text, **settings), make_env(text=small_text, **settings)
    slots = theirs.unwrapped.head_slots
    random = np.random.default_rng(0)
    heads = [env.reset(seed=1)[0]["heads"] for env in (ours, theirs)]
    np.testing.assert_allclose(*heads, rtol=2e-3, atol=2e-3)
    for _ in range(2):
        action = random.choice([0, 1, 2], slots, p=[0.5, 0.4, 0.1])
        assert ours.step(action)[1] == pytest.approx(theirs.step(action)[1], abs=1e-5)
    assert all(np.array_equal(before[name], array) for name, (array, _) in arrived.weights.items())


def test_a_model_that_trains_gets_weights_of_its_own(make_env, packed):
    arrived, _ = sent(packed(splits=("calibration", "reward", "train")))
    before = {name: array.copy() for name, (array, _) in arrived.weights.items()}
    loaded, text = arrived.open(writable=True)
    env = make_env(loaded=loaded, text=text, train_steps=1, **{"horizon": 2, "max_length": SMALL["max_length"]})
    env.reset(seed=0)
    env.step(np.ones(16, dtype=int) * (np.arange(16) < 3))
    assert not torch.equal(
        loaded.model.state_dict()["transformer.wte.weight"],
        load_model("bard-gpt2-4x4").model.state_dict()["transformer.wte.weight"],
    )
    assert all(np.array_equal(before[name], array) for name, (array, _) in arrived.weights.items())

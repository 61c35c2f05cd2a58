"""plasticity/Stream-v0: what it shows, what it pays and bills, and the programs that play it."""

from __future__ import annotations

import math
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from plasticity_env import InputError, load_text
from plasticity_env.data.generated import GENERATED, generated_documents
from plasticity_env.dynamic.running import RunningEstimate, measuring_flops
from plasticity_env.envs.stream_bench import StreamBench
from plasticity_env.envs.stream_env import KEEP, MEASURE, RECALL, StreamEnv
from plasticity_env.envs.stream_settings import StreamSettings
from plasticity_env.envs.stream_vector import StreamVectorEnv
from plasticity_env.signals.measure import sequence_losses

KINDS = ("shakespeare", "generated:json", "generated:table")
SMALL: dict[str, Any] = {
    "model_name": "bard-gpt2-4x4",
    "datasets": KINDS,
    "chunks": 6,
    "stage": (1, 3),
    "max_length": 24,
    "fit_blocks": 4,
}


@pytest.fixture(scope="module")
def bench() -> StreamBench:
    return StreamBench(StreamSettings(**SMALL))


def make(bench: StreamBench) -> StreamEnv:
    return StreamEnv(bench=bench)


def test_gymnasiums_and_stable_baselines3s_checkers_pass(bench: StreamBench) -> None:
    from stable_baselines3.common.env_checker import check_env as check

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(bench), skip_render_check=True)
        warnings.filterwarnings("ignore", message=r".*unconventional shape.*")
        check(make(bench))


def test_a_flat_observation_is_the_dict_in_order() -> None:
    spread, flat = (gym.make("plasticity/Stream-v0", **SMALL, observation=kind) for kind in ("dict", "flat"))
    (one, _), (other, _) = spread.reset(seed=3), flat.reset(seed=3)
    assert np.array_equal(np.concatenate([one[name].ravel() for name in ("chunk", "structures", "globals")]), other)
    assert flat.observation_space.contains(other)


def test_chunks_run_under_what_was_chosen_and_are_paid_for(bench: StreamBench) -> None:
    env, model = make(bench), bench.model
    stream = [["shakespeare", 0], ["generated:json", 1], ["generated:json", 2], ["shakespeare", 1]]
    _, info = env.reset(seed=0, options={"flop_price": 2.0, "stream": stream})
    assert info["structure"] == "mixture@0.5"
    for action in (RECALL, RECALL + 2, KEEP):
        _, reward, terminated, _, info = env.step(action)
        ids = bench.chunks[info["kind"]][info["chunk"] : info["chunk"] + 1]
        with torch.no_grad():
            dense = float(sequence_losses(model, ids))
            bench.bank.install(info["structure"])
            own = float(sequence_losses(model, ids))
            bench.bank.install(0)
        assert info["dense_loss"] == pytest.approx(dense, abs=1e-4)
        assert info["loss"] == pytest.approx(own, abs=1e-4)
        assert reward == pytest.approx(info["dense_loss"] - info["loss"] - 2.0 * math.log(info["flops_kept"]), abs=1e-6)
        assert info["billed"] == 0
    assert terminated
    with pytest.raises(gym.error.ResetNeeded):
        env.step(KEEP)


def test_a_measurement_is_billed_and_follows_the_text(bench: StreamBench) -> None:
    env = make(bench)
    stream = [["generated:table", number] for number in range(4)]
    env.reset(seed=0, options={"stream": stream})
    observation, _, _, _, info = env.step(MEASURE)
    cost = measuring_flops(bench.model, 24, bench.dense_flops) / (24 * bench.dense_flops)
    assert info["billed"] == pytest.approx(cost)
    assert cost > 3
    assert info["structure"] == "measured"
    assert observation["globals"][4] == 1
    estimate = RunningEstimate(bench.prior, bench.settings.prior_tokens, bench.settings.forget)
    estimate.add(bench.sums("generated:table", 0))
    expected = estimate.structure(bench.model, 0.5, 24)
    assert env._measured is not None
    assert torch.equal(env._measured.active, expected.active)
    assert all(torch.equal(mix, env._measured.mixes[site]) for site, mix in expected.mixes.items())
    assert env.step(KEEP)[4]["billed"] == 0
    assert env.step(RECALL + 1)[4]["structure"] == "shakespeare@0.5"


def test_a_structure_is_recalled_to_the_bit(bench: StreamBench) -> None:
    env = make(bench)
    env.reset(seed=0, options={"stream": [["shakespeare", 2]] * 4})
    first = env.step(RECALL + 1)[4]["loss"]
    env.step(MEASURE)
    assert env.step(RECALL + 1)[4]["loss"] == first


def test_streams_are_seeded_and_drift(bench: StreamBench) -> None:
    def played(seed: int) -> tuple[list[str], list[float]]:
        env = make(bench)
        _, info = env.reset(seed=seed)
        kinds, rewards, over = [info["kind"]], [], False
        while not over:
            _, reward, over, _, info = env.step(KEEP)
            kinds.append(info["kind"])
            rewards.append(reward)
        return kinds, rewards

    assert played(1) == played(1)
    assert played(1) != played(2)
    assert len(set(played(1)[0])) > 1
    assert len(played(1)[0]) == 6


def test_the_prior_counts_for_so_many_tokens(bench: StreamBench) -> None:
    estimate = RunningEstimate(bench.prior, 100.0, 0.5)
    assert estimate.sums.tokens == pytest.approx(100)
    chunk = bench.sums("shakespeare", 0)
    estimate.add(chunk)
    estimate.add(chunk)
    assert estimate.sums.tokens == pytest.approx(100 + 1.5 * 24)
    estimate.clear()
    assert estimate.sums.tokens == pytest.approx(100)
    for bad in ({"prior_tokens": 0}, {"forget": 1.5}):
        with pytest.raises(InputError):
            RunningEstimate(bench.prior, **bad)


def test_bad_input_gets_a_sentence(bench: StreamBench) -> None:
    env = make(bench)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)
    options: list[tuple[dict[str, Any], str]] = [
        ({"price": 1}, "unknown option"),
        ({"flop_price": -1}, "above 0"),
        ({"stream": [["prose", 0]]}, "there are shakespeare"),
        ({"stream": []}, "empty"),
        ({"stream": 7}, "must be"),
    ]
    for given, match in options:
        with pytest.raises(InputError, match=match):
            env.reset(options=given)
    env.reset(seed=0)
    for action in (-1, 99, 0.5, [0, 1], None):
        with pytest.raises(InputError, match="whole number"):
            env.step(action)
    settings: list[tuple[dict[str, Any], str]] = [
        ({"datasets": ()}, "names of texts"),
        ({"datasets": ("a", "a")}, "twice"),
        ({"split": "reward"}, "unknown split"),
        ({"share": 1.0}, "share"),
        ({"stage": 0}, "stage"),
        ({"observation": "image"}, "unknown observation"),
    ]
    for given, match in settings:
        with pytest.raises(InputError, match=match):
            StreamSettings(**given)
    with pytest.raises(TypeError, match="unexpected keyword argument 'length'"):
        gym.make("plasticity/Stream-v0", length=3)
    with pytest.raises(InputError, match="leave the other arguments out"):
        StreamEnv(bench=bench, chunks=3)


def test_generated_texts_are_always_the_same(bench: StreamBench) -> None:
    from plasticity_env import load_model

    for name in GENERATED:
        documents = generated_documents(name)
        assert documents == generated_documents(name)
        assert len(set(documents)) == len(documents)
        text = load_text(name, load_model("bard-gpt2-4x4").tokenizer, block_size=64)
        assert min(len(text.blocks(split)) for split in ("train", "calibration", "reward", "test")) > 16
    assert generated_documents("generated:json")[0].startswith("[\n {\n")


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["PPO", "DQN"])
def test_stable_baselines3_trains_on_it(algorithm: str) -> None:
    """Slow: structures are fitted first, then each learner takes 48 steps."""
    import stable_baselines3 as sb3

    env = gym.make("plasticity/Stream-v0", **SMALL, observation="flat")
    options = {"PPO": {"n_steps": 16, "batch_size": 16}, "DQN": {"learning_starts": 8, "buffer_size": 100}}
    learner = getattr(sb3, algorithm)("MlpPolicy", env, seed=0, **options[algorithm])
    before = [value.clone() for value in learner.policy.parameters()]
    learner.learn(48)
    assert any(not torch.equal(a, b) for a, b in zip(before, learner.policy.parameters(), strict=True))


HEADS: dict[str, Any] = {**SMALL, "control": "heads", "window": 2}


def test_heads_are_edited_while_the_text_drifts() -> None:
    from plasticity_env import controllers

    env = gym.make("plasticity/Stream-v0", **HEADS)
    controller = controllers.make("plasticity", aggressiveness=0.6, min_zeroed_epochs=1)
    stream = [["shakespeare", n] for n in range(3)] + [["generated:json", n] for n in range(3)]
    observation, info = env.reset(seed=0, options={"flop_price": 2.0, "stream": stream})
    controller.reset(0)
    model, bench, pruned, revived, over = env.unwrapped.workbench.model, env.unwrapped.workbench, 0, 0, False
    for number in range(1, len(stream)):
        assert not over
        before = env.unwrapped._any_state().active
        observation, reward, over, _, info = env.step(controller.act(observation))
        after = env.unwrapped._any_state().active
        pruned, revived = pruned + int((before & ~after).sum()), revived + int((~before & after).sum())
        assert [info["kind"], info["chunk"]] == stream[number]
        place = env.unwrapped.stream_texts.place(*stream[number])
        ids = bench.text.blocks("reward")[place : place + 1]
        with torch.no_grad(), model.dense():
            assert info["dense_loss"] == pytest.approx(float(sequence_losses(model, ids)), abs=1e-4)
        expected = info["dense_loss"] - info["loss"] - 2.0 * math.log(info["flops_kept"])
        assert reward == pytest.approx(expected, abs=1e-5)
        assert info["billed"] == 3.0 * min(number, 2)
    assert over
    assert pruned > 0
    assert revived > 0


def test_heads_on_a_stream_pass_the_checkers_and_are_seeded() -> None:
    env = gym.make("plasticity/Stream-v0", **HEADS).unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env, skip_render_check=True)
    runs = []
    for _ in range(2):
        _, info = env.reset(seed=5)
        told = [info["kind"]]
        for _ in range(4):
            told.append(env.step(np.ones(16, dtype=np.int64))[4]["loss"])
        runs.append(told)
    assert runs[0] == runs[1]
    with pytest.raises(InputError, match="unknown option"):
        env.reset(options={"calibration": [1]})
    with pytest.raises(InputError, match="unknown control"):
        gym.make("plasticity/Stream-v0", control="both")


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_native_environments_are_the_single_ones(mode: str) -> None:
    envs = gym.make_vec("plasticity/Stream-v0", num_envs=3, autoreset_mode=mode, **SMALL)
    assert isinstance(envs, StreamVectorEnv)
    single = [StreamEnv(bench=StreamBench(StreamSettings(**SMALL))) for _ in range(3)]
    seen, _ = envs.reset(seed=5)
    alone = [env.reset(seed=5 + number)[0] for number, env in enumerate(single)]
    random, over = np.random.default_rng(0), [False] * 3
    for _ in range(9):  # beyond the first episode
        for name, values in seen.items():
            assert np.allclose(values, np.stack([each[name] for each in alone]), atol=1e-4)
        actions = random.integers(envs.single_action_space.n, size=3)
        seen, rewards, ended, _, infos = envs.step(actions)
        for number, env in enumerate(single):
            if over[number] and mode == "NextStep":
                alone[number], over[number] = env.reset()[0], False
                assert rewards[number] == 0
                continue
            alone[number], reward, over[number], _, info = env.step(actions[number])
            assert rewards[number] == pytest.approx(reward, abs=1e-4)
            assert ended[number] == over[number]
            last = infos["final_info"] if over[number] and mode == "SameStep" else infos
            assert last["loss"][number] == pytest.approx(info["loss"], abs=1e-4)
            if over[number] and mode == "SameStep":
                assert np.allclose(infos["final_obs"][number]["globals"], alone[number]["globals"], atol=1e-4)
                alone[number], over[number] = env.reset()[0], False


def test_a_step_of_many_environments_is_few_passes(bench: StreamBench) -> None:
    envs = StreamVectorEnv(4, bench=bench)
    envs.reset(seed=0)
    bench._runs.clear()
    passes: list[int] = []
    hook = bench.model.model.register_forward_pre_hook(
        lambda module, args, kwargs: passes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    envs.step(np.array([RECALL + 1, RECALL + 2, RECALL + 1, KEEP]))
    hook.remove()
    chunks = {env._stream[1] for env in envs.envs}
    assert passes == [4 + len(chunks)]  # under their structures, and under none
    envs.step(np.array([MEASURE, RECALL, KEEP, KEEP]))
    assert envs.envs[0].structure is not bench.bank[0]


def test_measured_chunks_are_kept_within_a_limit_of_bytes(bench: StreamBench, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = next(iter(bench.chunks))
    one = bench.sums(kind, 0)
    assert bench.sums(kind, 0) is one
    assert one.nbytes == sum(
        of.outer.nbytes + of.total.nbytes + of.gradient.nbytes for of in one.sites.values() if of.gradient is not None
    )
    monkeypatch.setattr(bench._sums, "limit", one.nbytes)
    bench.sums(kind, 1)
    assert bench._sums.nbytes <= one.nbytes
    again = bench.sums(kind, 0)
    assert again is not one
    assert again.loss == one.loss


def test_a_bench_serves_another_split_with_the_same_bank(bench: StreamBench) -> None:
    other = bench.on("train" if bench.settings.split == "test" else "test", "flat", most=2)
    assert other.bank is bench.bank
    assert {len(ids) for ids in other.chunks.values()} == {2}
    kind = next(iter(other.chunks))
    assert not torch.equal(other.chunks[kind][0], bench.chunks[kind][0])
    assert other.run(kind, 0, other.bank[0]).loss != bench.run(kind, 0, bench.bank[0]).loss
    env = StreamEnv(bench=other)
    assert env.reset(seed=0)[0].ndim == 1
    assert all(number < 2 for _, number in env.stream)


def test_a_vector_environment_of_heads_takes_turns(bench: StreamBench) -> None:
    envs = gym.make_vec("plasticity/Stream-v0", num_envs=2, control="heads", **SMALL)
    envs.reset(seed=0)
    seen, rewards, *_ = envs.step(envs.action_space.sample())
    assert rewards.shape == (2,)
    assert envs.observation_space.contains(seen)
    for arguments, said in (
        ({"num_envs": 0}, "num_envs must be"),
        ({"autoreset_mode": "never"}, "unknown autoreset_mode 'never'"),
        ({"render_mode": "ansi"}, "draws nothing"),
        ({"control": "head"}, "unknown control 'head'"),
        ({"chunk": 3}, "unexpected keyword argument 'chunk'"),
    ):
        with pytest.raises(InputError, match=said):
            StreamVectorEnv(**arguments)


def test_stable_baselines3_learns_on_native_environments(bench: StreamBench) -> None:
    from stable_baselines3 import PPO

    from plasticity_env.agents.sb3.native_vec_env import NativeVecEnv

    flat = StreamBench(StreamSettings(**SMALL, observation="flat"))
    envs = NativeVecEnv(StreamVectorEnv(2, "SameStep", bench=flat))
    agent = PPO("MlpPolicy", envs, n_steps=8, batch_size=8, n_epochs=1, seed=0, device="cpu").learn(16)
    assert agent._n_updates == 1

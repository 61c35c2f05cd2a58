"""Episodes leave nothing behind but what is bounded, and a soak says what grows."""

from __future__ import annotations

import gymnasium as gym
import pytest

from plasticity_env.agents.benchmarks.soaking import SoakConfig, soak
from plasticity_env.common.errors import InputError
from tests.plasticity_env.envs.toy_models import TOKENS, toy_model, toy_text

SIGNALS = dict.fromkeys(("obs_signal", "residual_signal", "crossfit_signal"), False)
SMALL = {"max_length": TOKENS, "calibration_blocks": 2, "reward_blocks": 2, "batch_size": 2, "horizon": 1, **SIGNALS}
CASES = {
    "Heads": {},
    "HeadRank": {"units": "heads+mlp", "mlp_blocks": 2, **dict.fromkeys(SIGNALS, True)},
    "HeadEdit": {"reward": "kl", "repair": "sequential"},
    "trains": {"train_steps": 1, "train_streams": 2, "repair": "bias", "horizon": 2},
}


def make(case, remembered=20):
    blocks = CASES[case].get("mlp_blocks", 0)
    env = gym.make(
        f"plasticity/{'Heads' if case == 'trains' else case}-v1",
        loaded=toy_model("llama", blocks),
        text=toy_text(),
        **{**SMALL, **CASES[case]},
    )
    env.unwrapped.workbench.memo.capacity = remembered  # full before the first look
    return env


@pytest.mark.parametrize("case", ["Heads", *(pytest.param(case, marks=pytest.mark.slow) for case in list(CASES)[1:])])
def test_sixty_episodes_leave_no_objects_behind(case):
    """Slow but for one case: sixty episodes each."""
    first, second, third = soak(SoakConfig(episodes=60, every=20), lambda: make(case))
    assert first.remembered == third.remembered == 20
    assert second.tensor_mb == pytest.approx(third.tensor_mb, abs=0.1)
    more = third.objects - second.objects
    more.pop("tuple", None)  # the collector forgets those of numbers in its own time
    assert more.total() < 20, third.grown(second)  # one an episode


def test_what_an_environment_keeps_of_every_episode_is_named():
    env = make("Heads")
    kept, reset = [], env.unwrapped.reset

    def remembering(**options):
        kept.append({"options": options})
        return reset(**options)

    env.unwrapped.reset = remembering
    first, second = soak(SoakConfig(episodes=40, every=20), lambda: env.unwrapped)
    assert (second.objects - first.objects).total() >= 20
    assert "dict +" in second.grown(first)


def test_arguments_that_cannot_be_used_are_refused():
    with pytest.raises(InputError, match="episodes must be a whole number of at least 1"):
        next(soak(SoakConfig(episodes=0)))
    with pytest.raises(InputError, match="unknown environment 'head'"):
        next(soak(SoakConfig(env="head")))

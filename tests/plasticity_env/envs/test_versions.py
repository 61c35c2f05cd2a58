"""What an observation holds belongs to the version of the id: names, order and bounds of all columns, written down here."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from plasticity_env import InputError
from plasticity_env.envs.observation import Columns, head_column
from tests.conftest import SMALL

HEADS = """
0, 1: active is_mlp gate
0, 1e+09: age
0, 1: depth layer_active group_active flop_share
0, 32: entropy
0, 1: entropy_normalized
0, 1e+09: gradient fisher magnitude activation fluctuation obs residual_gradient residual_fisher residual_token_fisher
  residual_kfac residual_stepwise crossfit_gradient crossfit_fisher crossfit_token_fisher crossfit_kfac
  crossfit_stepwise
-1e+09, 1e+09: revive
-5, 5: entropy_z gradient_z fisher_z magnitude_z activation_z fluctuation_z obs_z residual_gradient_z
  residual_fisher_z residual_token_fisher_z residual_kfac_z residual_stepwise_z crossfit_gradient_z crossfit_fisher_z
  crossfit_token_fisher_z crossfit_kfac_z crossfit_stepwise_z gate_gradient_z
0, 1: gradient_rank fisher_rank residual_fisher_rank entropy_rank layer_fisher_rank layer_residual_rank
-5, 5: layer_fluctuation_z gradient_per_flop_z residual_fisher_per_flop_z crossfit_token_fisher_per_flop_z
  crossfit_kfac_per_flop_z residual_stepwise_per_flop_z crossfit_stepwise_per_flop_z layer_mean_z
-4, 4: overfit sensitivity_drift
"""
GLOBALS = """
0, 1: step
0, 1e+09: steps_left horizon
0, 1: active_share
-32, 32: log_flops_kept
-64, 64: log_ppl_kept
0, 1e+09: flop_price
-16, 16: log_flop_price
0, 1: budget target_share due_share max_sparsity prunable compressed trains repairs
0, 16: log_layers log_heads log_mlp_blocks
"""
GLOBALS_V1 = GLOBALS.replace("-32, 32: log_flops_kept\n-64, 64: log_ppl_kept", "-16, 16: log_flops_kept log_ppl_kept")


def table(text: str) -> list[tuple[str, tuple[float, float]]]:
    """Names with their bounds, in order, of lines "low, high: name name ..."."""
    found = []
    for line in text.replace("\n  ", " ").strip().splitlines():
        bounds, names = line.split(": ")
        low, high = map(float, bounds.split(", "))
        found += [(name, (low, high)) for name in names.split()]
    return found


@pytest.mark.parametrize(("version", "shared"), [(0, GLOBALS), (1, GLOBALS_V1)])
@pytest.mark.parametrize("kind", ["Heads", "HeadEdit", "HeadRank"])
def test_columns_order_and_bounds_are_those_of_the_version(make_env, small_text, kind, version, shared):
    columns = Columns.of(version)
    assert list(columns.heads.items()) == table(HEADS)
    assert list(columns.globals.items()) == table(shared)
    env = make_env(f"plasticity/{kind}-v{version}", text=small_text)
    assert env.unwrapped.env_id == f"plasticity/{kind}-v{version}"
    for space, pinned in (("heads", HEADS), ("globals", shared)):
        low, high = np.array([bounds for _, bounds in table(pinned)], dtype=np.float32).T
        box = env.observation_space[space]
        assert (box.low == low).all()
        assert (box.high == high).all()


def test_what_networks_read_is_bounded_to_order_ten_in_version_1():
    from plasticity_env.envs.observation import NETWORK_GLOBAL_FEATURES, NETWORK_HEAD_FEATURES

    columns = Columns.of(1)
    read = [columns.heads[name] for name in NETWORK_HEAD_FEATURES]
    read += [columns.globals[name] for name in NETWORK_GLOBAL_FEATURES]
    assert max(max(abs(low), abs(high)) for low, high in read) <= 16


@pytest.mark.parametrize("kind", ["Heads", "HeadRank"])
def test_both_versions_play_alike(make_env, small_text, kind):
    envs = [make_env(f"plasticity/{kind}-v{version}", text=small_text) for version in (0, 1)]
    action = envs[0].action_space.sample()
    shown = [[env.reset(seed=3)[0], env.step(action)] for env in envs]
    for old, new in ((shown[0][0], shown[1][0]), (shown[0][1][0], shown[1][1][0])):
        assert all(np.array_equal(old[name], new[name]) for name in old)
    assert shown[0][1][1] == shown[1][1][1]


def test_versions_and_columns_that_there_are_not(small_text):
    with pytest.raises(InputError, match="unknown version of an environment '7'"):
        Columns.of(7)
    observation, _ = gym.make("plasticity/Heads-v1", text=small_text, **SMALL).reset(seed=0)
    with pytest.raises(InputError, match="did you mean 'fisher'"):
        head_column(observation, "fischer")

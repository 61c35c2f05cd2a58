"""Rules, scores and the network: decisions from observations alone."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from plasticity_env import InputError, controllers
from plasticity_env.common.digests import MANIFEST
from plasticity_env.controllers import ANNController, HeadNetwork, NetworkConfig, PlasticityController
from plasticity_env.envs.observation import GLOBAL_FEATURES, HEAD_FEATURES, Observation


def observe(head=None, mode="heads", count=12, allow_revive=True, **globals_):
    """An observation with the given columns; everything else is zero."""
    heads = np.zeros((count, len(HEAD_FEATURES)), dtype=np.float32)
    columns = {"active": np.ones(count), "age": np.full(count, 9), **(head or {})}
    for name, values in columns.items():
        heads[:, list(HEAD_FEATURES).index(name)] = values
    vector = np.zeros(len(GLOBAL_FEATURES), dtype=np.float32)
    for name, value in {"horizon": 4, "steps_left": 4, **globals_}.items():
        vector[list(GLOBAL_FEATURES).index(name)] = value
    active = np.asarray(columns["active"], dtype=bool)
    mask = np.stack([np.ones(count), active, ~active & allow_revive, np.zeros(count)], 1).astype(np.int8)
    if mode == "head_edit":
        mask = np.concatenate([[1], mask[:, 1:].T.reshape(-1)]).astype(np.int8)
    if mode == "head_rank":
        mask = np.ones(count, dtype=np.int8)
    return Observation(mode, {"heads": heads, "globals": vector, "action_mask": mask})


@pytest.mark.parametrize(
    ("name", "column", "sign"),
    [
        ("fisher", "fisher", 1),
        ("gradient", "gradient", 1),
        ("magnitude", "magnitude", 1),
        ("activation", "activation", 1),
        ("fluctuation", "fluctuation", 1),
        ("obs", "obs", 1),
        ("entropy_low", "entropy_normalized", 1),
        ("entropy_high", "entropy_normalized", -1),
    ],
)
def test_a_score_prunes_its_least_important_heads(name, column, sign):
    values = np.random.default_rng(0).permutation(12) / 12
    controller = controllers.make(name, sparsity=0.25)
    action = controller.act(observe({column: values}))
    assert set(np.flatnonzero(action == 1)) == set(np.argsort(sign * values)[:3])
    one = controller.act(observe({column: values}, mode="head_edit"))
    assert one == 1 + int(np.argmin(sign * values))


def test_an_observation_that_does_not_say_its_kind_is_refused():
    with pytest.raises(InputError, match="must say its environment's kind, got a plain dict"):
        controllers.make("fisher").act(dict(observe()))
    copies = (copy.deepcopy(observe(mode="head_edit")), pickle.loads(pickle.dumps(observe(mode="head_edit"))))
    assert [each.kind for each in copies] == ["head_edit", "head_edit"]


def test_the_rule_orders_heads_on_headrank():
    """Those within the thresholds go first; then by gradient, less the weight of the entropy."""
    entropy, gradient = np.linspace(0, 1, 12), np.random.default_rng(3).permutation(12) / 12
    seen = observe({"entropy_normalized": entropy, "gradient": gradient}, mode="head_rank")
    plain = PlasticityController("high", aggressiveness=0.0).act(seen)  # nothing is within: gradient alone
    assert plain.argsort().tolist() == gradient.argsort().tolist()
    heavy = PlasticityController("high", aggressiveness=0.0, entropy_weight=100.0).act(seen)
    assert heavy.argsort().tolist() == np.arange(12)[::-1].tolist()
    low = PlasticityController("low", aggressiveness=0.0, entropy_weight=100.0).act(seen)
    assert low.argsort().tolist() == np.arange(12).tolist()
    rule = {"prune_entropy": "high", "aggressiveness": 0.5}
    inside = set(
        np.flatnonzero(
            PlasticityController(**rule).act(observe({"entropy_normalized": entropy, "gradient": gradient})) == 1
        )
    )
    order = PlasticityController(**rule).act(seen).argsort().tolist()
    assert 0 < len(inside) < 12
    assert set(order[: len(inside)]) == inside
    assert order[len(inside) :] == [head for head in gradient.argsort() if head not in inside]


def test_gradient_power_moves_the_gradients_threshold_alone():
    gradient, head = np.random.default_rng(4).random(12), {"entropy_normalized": np.ones(12)}
    for power, count in ((1.0, 3), (0.5, 6), (2.0, 1)):  # 1/4, 1/2 and 1/16 of eleven steps
        rule = PlasticityController("high", aggressiveness=0.25, gradient_power=power)
        assert (rule.act(observe({**head, "gradient": gradient})) == 1).sum() == count
    with pytest.raises(InputError, match="gradient_power"):
        PlasticityController(gradient_power=-1.0)
    with pytest.raises(InputError, match="entropy_weight"):
        PlasticityController(entropy_weight=float("nan"))


def test_fisher_obs_adds_the_ranks_among_active_heads():
    random = np.random.default_rng(1)
    fisher, obs, active = random.random(12), random.random(12), np.arange(12) % 5 > 0
    obs[~active] = 0  # as measured
    total = {}
    for head in np.flatnonzero(active):
        total[head] = sum(int((values[active] < values[head]).sum()) for values in (fisher, obs))
    found = controllers.make("fisher_obs").importance(observe({"fisher": fisher, "obs": obs, "active": active}))
    kept = np.flatnonzero(active)
    for one in kept:
        for other in kept:
            assert np.sign(round(found[one] - found[other], 9)) == np.sign(total[one] - total[other])
    with pytest.raises(InputError, match="obs_signal"):
        controllers.make("fisher_obs").act(observe({"fisher": fisher}))


def test_flap_standardises_fluctuation_within_layers():
    depth = np.repeat([0.0, 0.5, 1.0], 4)
    fluctuation = np.concatenate([[1, 2, 3, 10], [100, 101, 102, 103], [5, 5, 5, 5]]).astype(float)
    active = np.ones(12)
    active[4] = 0
    found = controllers.make("flap").importance(observe({"fluctuation": fluctuation, "depth": depth, "active": active}))
    for layer, kept in ((0, [0, 1, 2, 3]), (0.5, [5, 6, 7])):
        mine = fluctuation[kept]
        np.testing.assert_allclose(
            np.log(found[kept]), (mine - mine.mean()) / mine.std(), atol=1e-6, err_msg=str(layer)
        )
    assert np.log(found[8:]) == pytest.approx(np.zeros(4))


def test_rounds_spread_the_pruning():
    controller = controllers.make("fisher", sparsity=0.5, rounds=4)
    values, active, gone = np.arange(12) / 12, np.ones(12), []
    for step in range(4):
        action = controller.act(observe({"fisher": values, "active": active}, steps_left=4 - step))
        active = np.where(action == 1, 0, active)
        gone.append(int((active == 0).sum()))
    assert gone == [2, 3, 4, 6]  # round(6 * 1/4), ..., all by the last


def test_random_follows_its_seed():
    controller = controllers.make("random", sparsity=0.5)
    picks = []
    for seed in (1, 1, 2):
        controller.reset(seed)
        picks.append(controller.act(observe()).tolist())
    assert picks[0] == picks[1] != picks[2]


@pytest.mark.parametrize(("direction", "expected"), [("high", {0}), ("low", {2})])
def test_the_rule_prunes_idle_and_quiet_heads_only(direction, expected):
    entropy, gradient = np.array([0.9, 0.9, 0.1, 0.1]), np.array([0.1, 0.9, 0.1, 0.9])
    rule = PlasticityController(direction, entropy_threshold=0.5, gradient_threshold=0.5)
    action = rule.act(observe({"entropy": entropy, "gradient": gradient}, count=4))
    assert set(np.flatnonzero(action == 1)) == expected


def test_the_rule_revives_after_its_rest_only():
    active, age = np.array([0, 0, 0, 1]), np.array([3, 1, 3, 9])
    entropy, gradient = np.array([0.1, 0.1, 0.9, 0.1]), np.array([0.9, 0.9, 0.9, 0.9])
    rule = PlasticityController("high", entropy_threshold=0.5, gradient_threshold=0.5, min_zeroed_epochs=2)
    head = {"active": active, "age": age, "entropy": entropy, "gradient": gradient}
    assert rule.act(observe(head, count=4)).tolist() == [2, 0, 0, 0]


def test_the_prune_rate_limit_is_applied():
    values = np.arange(12) / 12
    head = {"entropy_normalized": values, "gradient": values[::-1]}
    assert (PlasticityController("high", aggressiveness=0.6).act(observe(head)) == 1).sum() == 7
    limited = PlasticityController("high", aggressiveness=0.6, max_prune_rate=0.25).act(observe(head))
    assert set(np.flatnonzero(limited == 1)) == {9, 10, 11}  # 3 of 12, lowest gradient first


def test_history_is_used():
    rule = PlasticityController("high", entropy_threshold=0.5, gradient_threshold=0.5, history=2)
    busy = observe({"entropy": np.array([0.1, 0.1]), "gradient": np.array([0.9, 0.1])}, count=2)
    idle = observe({"entropy": np.array([0.8, 0.95]), "gradient": np.array([0.05, 0.1])}, count=2)
    rule.act(busy)
    assert rule.act(idle).tolist() == [0, 1]  # means: (0.45, 0.475) against (0.525, 0.1)
    rule.reset()
    assert rule.act(idle).tolist() == [1, 1]  # forgotten


@pytest.mark.parametrize(("sign", "direction"), [(-1, "high"), (1, "low")])
def test_auto_measures_the_direction(sign, direction):
    entropy = np.arange(12) / 12
    rule = PlasticityController("auto")
    rule.act(observe({"entropy_normalized": entropy, "fisher": sign * entropy + 2}))
    assert rule.direction == direction


def test_aggressiveness_spans_nothing_to_everything():
    random = np.random.default_rng(0)
    head = {"entropy_normalized": random.random(12), "gradient": random.random(12)}
    pruned = [
        int((PlasticityController("high", aggressiveness=a).act(observe(head)) == 1).sum())
        for a in np.linspace(0, 1, 9)
    ]
    assert pruned[0] == 0
    assert pruned[-1] == 12
    assert pruned == sorted(pruned)


def test_what_the_mask_forbids_is_never_chosen():
    observation = observe({"active": np.zeros(12)}, allow_revive=False)
    for name in ("constant", "plasticity", "ann", "fisher"):
        assert (controllers.make(name).act(observation) == 0).all()


def test_the_network_treats_heads_alike():
    """Permuting heads permutes decisions: weights are shared, and order tells nothing."""
    for context in ("deep_sets", "attention"):
        torch.manual_seed(0)
        network = HeadNetwork(NetworkConfig(context=context)).eval()
        random = np.random.default_rng(0)
        heads = torch.from_numpy(random.standard_normal((1, 10, len(HEAD_FEATURES))).astype(np.float32))
        globals_ = torch.randn(1, len(GLOBAL_FEATURES))
        order = torch.from_numpy(random.permutation(10))
        out, moved = network(heads, globals_), network(heads[:, order], globals_)
        assert torch.allclose(out.edits[:, order], moved.edits, atol=1e-5)
        assert torch.allclose(out.value, moved.value, atol=1e-5)


def test_padding_changes_nothing():
    for context in ("deep_sets", "attention"):
        torch.manual_seed(0)
        network = HeadNetwork(NetworkConfig(context=context)).eval()
        heads, globals_ = torch.randn(2, 6, len(HEAD_FEATURES)), torch.randn(2, len(GLOBAL_FEATURES))
        padded = torch.cat([heads, torch.randn(2, 5, len(HEAD_FEATURES))], 1)
        valid = torch.arange(11)[None].expand(2, -1) < 6
        out, wide = network(heads, globals_), network(padded, globals_, valid)
        assert torch.allclose(out.edits, wide.edits[:, :6], atol=1e-5)
        assert torch.allclose(out.value, wide.value, atol=1e-5)


def test_a_fresh_network_leans_towards_keep():
    network = HeadNetwork(NetworkConfig(keep_bias=3.0))
    output = network(torch.randn(1, 50, len(HEAD_FEATURES)), torch.randn(1, len(GLOBAL_FEATURES)))
    assert (output.edits.softmax(-1)[..., 0] > 0.75).all()


def test_saved_controllers_decide_alike(tmp_path):
    controller = ANNController(info={"agent": "test"})
    controller.save(tmp_path)
    loaded = controllers.load(tmp_path)
    observation = observe({"fisher_z": np.linspace(-2, 2, 12), "entropy_z": np.linspace(1, -1, 12)})
    assert np.array_equal(controller.importance(observation), loaded.importance(observation))
    assert loaded.info == {"agent": "test"}
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json"}


def test_checkpoints_that_do_not_fit_are_one_clear_sentence(tmp_path):
    ANNController().save(tmp_path)
    path = tmp_path / "controller.json"
    good = json.loads(path.read_text())
    (tmp_path / MANIFEST).unlink()  # as a controller of an earlier version, whose values alone are checked
    wider = {**good, "network": {**good["network"], "width": 32}}
    path.write_text(json.dumps(wider))
    with pytest.raises(InputError, match="does not hold a controller of the shape"):
        controllers.load(tmp_path)
    other = {**good, "network": {**good["network"], "head_features": ["active", "charm"]}}
    path.write_text(json.dumps(other))
    with pytest.raises(InputError, match="features that this version's observation lacks: charm"):
        controllers.load(tmp_path)
    with pytest.raises(InputError, match="no controller at"):
        controllers.load(tmp_path / "nowhere")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_that_diverged_is_neither_saved_nor_loaded(tmp_path, value):
    controller = ANNController(HeadNetwork(NetworkConfig()))
    controller.save(tmp_path)
    weights = load_file(tmp_path / "controller.safetensors")
    next(iter(weights.values())).flatten()[0] = value
    save_file(weights, tmp_path / "controller.safetensors")
    (tmp_path / MANIFEST).unlink()
    with pytest.raises(InputError, match="weights are not finite"):
        ANNController.load(tmp_path)
    with torch.no_grad():
        next(controller.network.parameters()).fill_(value)
    with pytest.raises(InputError, match="weights are not finite"):
        controller.save(tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fischer", {}, "did you mean 'fisher'"),
        ("fisher", {"sparsity": 1.0}, r"sparsity must lie in \[0, 1\)"),
        ("fisher", {"sparsity": -0.1}, r"sparsity must lie in \[0, 1\)"),
        ("plasticity", {"prune_entropy": "up"}, "prune_entropy must be"),
        ("plasticity", {"threshold": 1}, "does not take these options"),
    ],
)
def test_bad_controllers_are_one_clear_sentence(name, options, message):
    with pytest.raises(InputError, match=message):
        controllers.make(name, **options)

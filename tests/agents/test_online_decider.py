"""The online controller in an experiment: what bounds it, what it is paid, and that a cut run goes on alike."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from plasticity_env import InputError, controllers, load_plastic
from plasticity_env.agents.online.bounds import PruneBounds
from plasticity_env.agents.online.online_arguments import OnlineRunConfig
from plasticity_env.agents.online.online_run import run_online
from plasticity_env.agents.online.ranked_start import calibrate, ranked_start
from plasticity_env.agents.online.returns import Returns
from plasticity_env.common.arguments import fill, parse
from plasticity_env.cycle import ExperimentSettings, NeuralPlasticityExperiment
from plasticity_env.cycle.deciders import Decider, Decision
from plasticity_env.envs.observation import GLOBAL_FEATURES, HEAD_FEATURES, Observation
from plasticity_env.model.flops import CostTable
from plasticity_env.signals.measure import mean_loss
from tests.conftest import filled


def signals(entropy, fisher):
    return SimpleNamespace(entropy=torch.tensor(entropy), fisher=torch.tensor(fisher))


ACTIVE = torch.ones(2, 3, dtype=torch.bool)
ENTROPY = [[0.5, 1.5, 3.0], [2.0, 1.0, 2.5]]
FISHER = [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]


def test_only_unimportant_heads_on_the_prune_side_may_go():
    found = signals(ENTROPY, FISHER)
    high = PruneBounds(1.5, 0.5, "high").measure(found, ACTIVE, "high")  # the median score is 0.35
    assert high.prunable.tolist() == [[False, True, True], [False, False, False]]
    low = PruneBounds(1.5, 0.5, "low").measure(found, ACTIVE, "low")
    assert low.prunable.tolist() == [[True, True, False], [False, False, False]]
    assert "3 with Fisher <= 0.35 (the 0.5 quantile): 2 may be pruned" in low.sentence()
    free = PruneBounds(None, 1.0, "high").measure(found, ACTIVE, "high")
    assert free.prunable.all()
    some = ACTIVE.clone()
    some[0] = False  # quantiles are over what is active
    left = PruneBounds(None, 0.5, "high").measure(found, some, "high")
    assert left.prunable.tolist() == [[False] * 3, [True, True, False]]


def test_blocks_of_neurons_are_bounded_by_importance_alone():
    """Their quantile is their own; entropy, which they have not, asks nothing of them."""
    found = signals(
        [[2.0, 2.0, 0.0], [1.0, 2.0, 0.0]], [[0.1, 0.2, 7.0], [0.3, 0.4, 9.0]]
    )  # two heads, one block a layer
    bounded = PruneBounds(1.5, 0.5, "high").measure(found, ACTIVE, "high", heads=2)
    assert bounded.prunable.tolist() == [[True, True, True], [False, False, False]]
    assert bounded.sentence().endswith(
        "2 with Fisher <= 0.25 (the 0.5 quantile): 2 may be pruned, and 1 of 2 MLP blocks"
    )


def test_a_unit_comes_back_only_where_it_gains_more_than_its_flops_cost():
    costs = CostTable(60.0, 10.0, 0.0, 1)  # three heads of ten stay: 90 FLOPs of which each pruned one would add 10
    active = torch.tensor([[True, True, False], [False, True, False]])
    price = 4 * math.log(100 / 90)
    gain = torch.tensor([[0.0, 0.0, price + 0.01], [price - 0.01, 0.0, -1.0]])
    situation = SimpleNamespace(active=active, costs=costs, flop_price=4.0, signals={"revive": gain})
    returns = Returns.of(situation)
    assert returns.worth.tolist() == [[False, False, True], [False, False, False]]
    assert returns.sentence() == "; 1 of 3 pruned units are worth their FLOPs (the best gains 0.43 nats and costs 0.42)"
    assert replace(returns, active=torch.ones_like(active)).sentence() == ""


def test_auto_prunes_the_side_that_matters_less():
    assert PruneBounds(1.5).side(signals(ENTROPY, FISHER), ACTIVE) == "low"  # 0.1, 0.5 against 0.2, 0.3, 0.4, 0.6
    assert PruneBounds(1.5).side(signals(ENTROPY, [[0.6, 0.2, 0.1], [0.1, 0.6, 0.1]]), ACTIVE) == "high"
    assert PruneBounds(9.0).side(signals(ENTROPY, FISHER), ACTIVE) == "low"  # nothing is above
    assert PruneBounds(1.5, 0.7, "high").side(signals(ENTROPY, FISHER), ACTIVE) == "high"


def test_bounds_refuse_bad_input():
    for options in ({"entropy_threshold": -1.0}, {"importance_threshold": 1.2}, {"prune_entropy": "up"}):
        with pytest.raises(InputError):
            PruneBounds(**options)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text("To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer. " * 300)
    return filled(
        OnlineRunConfig,
        model_name="bard-gpt2-4x4",
        dataset=str(text),
        max_length=32,
        batch_size=2,
        warmup_steps=2,
        finetuning_steps=6,
        decision_every=2,
        analyze_steps=2,
        cycles=1,
        pruning_level=0.5,
        mlp_blocks=0,
        reward_blocks=4,
        test_blocks=4,
        growth_warmup_steps=1,
        sample_tokens=0,
        learning_rate=1e-4,
        prune_entropy="high",
    )


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("online") / "run"
    return run_online(replace(config, output_dir=folder))


def test_rewards_are_the_rise_of_the_potential(whole, config):
    record, decider = whole
    assert len(decider.history) == 3
    at = {(row.arm, row.cycle, row.phase): row for row in record.evaluations if row.split == "reward"}

    def potential(cycle, phase):
        mine, control = at["experiment", cycle, phase], at["control", cycle, phase]
        return control.loss - mine.loss - config.experiment.flop_price * math.log(mine.flops_kept)

    assert potential(1, "analysis") == pytest.approx(0.0, abs=1e-9)
    earned = [entry["reward"] for entry in decider.history]
    assert sum(earned) == pytest.approx(potential(1, "evaluation"), abs=1e-6)
    assert decider.learner.lessons == 3


def test_every_edit_kept_the_bounds_and_tells_why(whole, config):
    record, decider = whole
    assert record.events
    for event in record.events:
        assert "the network chose to" in event.reason
        assert {"entropy", "fisher", "gradient", "magnitude", "activation"} <= set(event.signals)
    by_step = {entry["step"]: entry for entry in decider.history}
    pruned = [event for event in record.events if event.edit == "prune"]
    for event in pruned:
        entry = by_step[event.step]
        assert event.signals["fisher"] <= entry["fisher_cut"] + 1e-12
        beyond = event.signals["entropy"] - config.entropy_threshold
        assert beyond >= 0 if entry["prune_entropy"] == "high" else beyond <= 0
    assert max(row.sparsity for row in record.evaluations) <= config.experiment.pruning_level


@pytest.mark.slow
def test_a_cut_run_goes_on_with_the_same_decisions(whole, config, tmp_path, monkeypatch):
    """Slow: the same run twice, the second of them cut."""
    from plasticity_env.agents.online import online_run

    record, decider = whole
    folder = tmp_path / "run"
    update = online_run._Files.update

    def cut(files, decider):
        update(files, decider)
        if len(decider.history) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(online_run._Files, "update", cut)
    with pytest.raises(KeyboardInterrupt):
        run_online(replace(config, output_dir=folder))
    assert json.loads((folder / "config.json").read_text())["status"] == "stopped"
    assert (folder / "pruned_model" / "plastic.json").exists()
    assert torch.load(folder / "controller.pt", weights_only=True)
    monkeypatch.undo()
    again, rest = run_online(OnlineRunConfig(resume=folder))
    assert again.config["status"] == "finished"
    assert rest.history == decider.history
    for name, value in decider.learner.network.state_dict().items():
        assert torch.equal(value, rest.learner.network.state_dict()[name])
    assert [(e.edit, e.layer, e.head) for e in again.events] == [(e.edit, e.layer, e.head) for e in record.events]


def test_a_finished_run_is_only_read_and_a_folder_in_use_is_left_alone(whole, config):
    record, decider = whole
    folder = record.folder
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    again, read = run_online(OnlineRunConfig(resume=folder))
    assert again.config["status"] == "finished"
    assert read.history == decider.history
    for name, value in decider.learner.network.state_dict().items():
        assert torch.equal(value, read.learner.network.state_dict()[name])
    with pytest.raises(InputError, match="not an empty folder"):
        run_online(replace(config, output_dir=folder))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"pruning_level": 1.0}, "pruning_level must lie in"),
        ({"importance_threshold": 1.5}, "importance_threshold"),
        ({"prune_entropy": "up"}, "unknown entropy direction 'up'"),
        ({"controller": Path("nowhere")}, "no controller at 'nowhere'"),
        ({"resume": Path("nowhere")}, "no run at 'nowhere'"),
    ],
)
def test_bad_input_writes_nothing(values, said, config, tmp_path):
    with pytest.raises(InputError, match=said):
        run_online(fill(config, {"output_dir": tmp_path / "run", **values}))
    assert not (tmp_path / "run").exists()


def test_the_shipped_ranking_is_where_learning_begins():
    """As many heads as are wanted are expected to go, and the order is that of the ranking."""
    start, ranking = ranked_start(), controllers.make("ann")
    random = np.random.default_rng(0)
    heads = np.zeros((16, len(HEAD_FEATURES)), dtype=np.float32)
    heads[:, [list(HEAD_FEATURES).index(name) for name in ranking.network.config.head_features]] = random.normal(
        size=(16, 10)
    )
    mask = np.ones((16, 4), dtype=np.int8)
    mask[4:, 1] = random.random(12) < 0.7
    globals_ = np.zeros(len(GLOBAL_FEATURES), dtype=np.float32)
    seen = Observation("heads", {"heads": heads, "globals": globals_, "action_mask": mask})
    calibrate(start, seen, 3)
    logits = start.network(torch.from_numpy(heads)[None], torch.from_numpy(globals_)[None]).edits[0]
    margin = (logits[:, 1] - logits[:, 0]).detach()
    assert float(margin[mask[:, 1] > 0].sigmoid().sum()) == pytest.approx(3, abs=1e-3)
    importance = ranking.importance(Observation("head_rank", {**seen, "action_mask": np.ones(16, dtype=np.int8)}))
    assert margin.argsort(descending=True).tolist() == importance.argsort().tolist()
    before = start.network.linear.bias.clone()
    calibrate(start, seen, 9)  # once only: from then on it learns
    assert torch.equal(start.network.linear.bias, before)
    edits = logits.detach().softmax(-1)
    pruned = torch.from_numpy(mask[:, 1] == 0)
    back = edits[:, 2:].sum(1) / (edits[:, 2:].sum(1) + edits[:, 0])  # of a pruned head: keep, revive or grow
    assert float(back.max()) < 0.1  # whatever its rank
    assert bool(pruned.any())


def test_growth_that_a_trial_took_back_is_not_billed(whole):
    _, decider = whole
    history, edits = decider.history, torch.tensor([[3, 0, 3]])
    heads = torch.tensor([[True, False, False]])
    decider.history, pending = [{"step": 4, "grow": 2}], decider.learner._pending
    decider.learner._pending = None, edits
    try:
        decider.taken_back(heads)
        assert decider.history == [{"step": 4, "grow": 1, "taken_back": 1}]
        assert decider.learner._pending[1].tolist() == [[-1, 0, 3]]
    finally:
        decider.history, decider.learner._pending = history, pending


def test_defaults_that_the_document_gives_are_kept():
    config = parse(OnlineRunConfig, [])
    own = config.experiment
    assert (own.model_name, own.device, own.batch_size, own.max_length, own.cycles) == ("gpt2", "auto", 8, 128, 3)
    assert (config.entropy_threshold, config.importance_threshold, config.controller_lr) == (1.5, 0.7, 0.01)
    assert config.verbose
    assert not parse(OnlineRunConfig, ["--no_verbose"]).verbose


def test_where_a_run_begins_is_the_users_choice(config, whole):
    assert config.decider().learner.network.config.context == "linear"
    fresh = replace(config, from_scratch=True).decider().learner.network
    assert fresh.config.context == "deep_sets"
    assert whole[0].settings["controller"] == "the shipped ranking"
    with pytest.raises(InputError, match="leave it out, or leave out --controller"):
        replace(config, from_scratch=True, controller=Path("x")).decider()


@pytest.mark.parametrize(("warmup", "every", "steps"), [(50, 2, 6), (50, 0, 3), (1, 2, 3), (50, 4, 6), (50, 2, 0)])
def test_no_figure_and_no_saved_model_holds_a_half_open_gate(warmup, every, steps, tmp_path, small_text):
    """A head grows at every decision: when somebody decides, evaluates or saves again its gate is open."""

    class GrowsAndPrunes(Decider):
        name, grows, gates = "grows and prunes", True, []

        def decide(self, situation):
            self.gates.append(situation.model.gates)
            active, none = situation.active, torch.zeros_like(situation.active)
            prune, grow = none.clone(), none.clone()
            prune[0, len(self.gates) % 4] = active[0, len(self.gates) % 4]
            grow[0] = ~active[0]
            return Decision(prune, none, grow)

    decider = GrowsAndPrunes()
    decider.gates = []
    settings = ExperimentSettings(
        **{"warmup_steps": 1, "training_steps": steps, "decision_every": every, "growth_warmup_steps": warmup},
        **{"cycles": 2, "analysis_steps": 1, "batch_size": 2, "max_length": 32, "reward_blocks": 2, "test_blocks": 2},
        **{"sample_tokens": 0, "save_model": True, "checkpoints": False, "pruning_level": 0.5},
    )
    record = NeuralPlasticityExperiment(
        settings, tmp_path / "run", decider, text=small_text, progress=False, pages=False
    ).run()
    assert sum(event.edit == "grow" for event in record.events) > 0
    for gates in decider.gates:
        assert set(gates.flatten().tolist()) <= {0.0, 1.0}
    for row in record.signals:
        assert set(np.array(row.gates).flatten().tolist()) <= {0.0, 1.0}
    final = load_plastic(record.folder / "models" / "final").model
    assert torch.equal(final.gates, final.active.float())


def test_the_row_after_growth_is_of_open_gates(tmp_path, small_text):
    """Growth is not shown as free: grown heads count in full, in FLOPs and in perplexity."""
    settings = ExperimentSettings(
        **{"warmup_steps": 0, "training_steps": 3, "cycles": 1, "pruning_level": 0.5, "growth_ratio": 1.0},
        **{"pruning_strategy": "random", "analysis_steps": 1, "batch_size": 2, "max_length": 32, "reward_blocks": 2},
        **{"test_blocks": 2, "sample_tokens": 0, "checkpoints": False},
    )
    for initial in ("random", "copy", "transfer"):
        run = NeuralPlasticityExperiment(
            replace(settings, growth_init=initial), tmp_path / initial, text=small_text, progress=False, pages=False
        )
        judged, grow = [], run.cycle._growth

        def growth(cycle, run=run, judged=judged, grow=grow):
            details = grow(cycle)
            model, gates = run.loaded.model, run.loaded.model.gates
            assert bool(((gates > 0) & (gates < 1)).any())  # the warm-up begins
            with model.using(model.active.float()):
                judged.append(mean_loss(model, small_text.blocks("test")[:2]))
            return details

        run.cycle._growth = growth
        record = run.run()
        (row,) = [
            row for row in record.evaluations if (row.arm, row.phase, row.split) == ("experiment", "growth", "test")
        ]
        assert row.loss == pytest.approx(judged[0], abs=1e-6)
        assert row.flops_kept == 1.0


def test_ctrl_c_within_a_warm_up_saves_open_gates(config, tmp_path, monkeypatch):
    """The model that is kept computes what the stopped one did."""
    from plasticity_env.agents.online.online_decider import OnlineDecider
    from plasticity_env.cycle.phases import PlasticityCycle

    def decide(decider, situation):
        active, none = situation.active, torch.zeros_like(situation.active)
        prune = none.clone()
        prune[0, 1:3] = active.all()
        return Decision(prune, none, ~active)

    train, seen = PlasticityCycle._train, {}

    def trained(cycle, number, phase, steps):
        for _ in range(steps):
            train(cycle, number, phase, 1)
            model = cycle.arm.model
            if bool(((model.gates > 0) & (model.gates < 1)).any()):
                ids = cycle.text.blocks("test")[:2]
                seen.update(ids=ids, logits=model(input_ids=ids).logits.detach())
                raise KeyboardInterrupt

    monkeypatch.setattr(OnlineDecider, "decide", decide)
    monkeypatch.setattr(PlasticityCycle, "_train", trained)
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run_online(fill(config, {"output_dir": folder, "growth_init": "random", "growth_warmup_steps": 2}))
    kept = load_plastic(folder / "pruned_model").model
    assert torch.equal(kept.gates, kept.active.float())
    with torch.no_grad():
        assert torch.allclose(kept(input_ids=seen["ids"]).logits, seen["logits"], atol=1e-4)

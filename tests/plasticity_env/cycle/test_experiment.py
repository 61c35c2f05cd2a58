"""The cycle as a whole: control arm, budget, phases, growth, removal, and runs that go on."""

from __future__ import annotations

import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from plasticity_env import InputError, controllers, load_model, load_plastic, mean_loss
from plasticity_env.cycle import (
    ControllerDecider,
    ExperimentSettings,
    NeuralPlasticityExperiment,
    RunRecord,
    StrategyDecider,
)
from plasticity_env.cycle.arms import Arm
from plasticity_env.cycle.run_episode import run_episode
from plasticity_env.signals.measure import sequence_losses
from plasticity_env.strategies.neuron_order import order_neurons
from plasticity_env.training import BlockBatches
from tests.plasticity_env.cycle.conftest import SHORT


def rows(record, arm, split="reward"):
    return {(row.cycle, row.phase): row for row in record.evaluations if (row.arm, row.split) == (arm, split)}


def plain_training(text, settings, steps):
    """Losses of steps of AdamW written out, and the loss on the reward blocks afterwards."""
    model = load_model(settings.model_name).model.model
    trained = list(model.parameters())
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.01},
        {"params": [p for p in trained if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate)
    batches = BlockBatches(text.blocks("train"), settings.batch_size, settings.seed)
    losses = []
    for step in range(steps):
        ids = batches(step)
        logits = model(input_ids=ids).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    with torch.no_grad():
        ids = text.blocks("reward")[: settings.reward_blocks]
        logits = model(input_ids=ids).logits[:, :-1]
        after = float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()))
    return losses, after


def test_the_control_arm_is_plain_training_and_every_phase_is_written(run_short, short, small_text):
    record = run_short()
    losses, after = plain_training(small_text, short(), 6)
    warm = [row.loss for row in record.steps if row.phase == "warmup"]
    control = [row.loss for row in record.steps if row.arm == "control"]
    assert warm + control == pytest.approx(losses, abs=2e-5)
    assert rows(record, "control")[1, "evaluation"].loss == pytest.approx(after, abs=2e-5)
    phases = ["analysis", "pruning", "measure", "growth", "fine_tuning", "evaluation"]
    assert [(row.cycle, row.phase) for row in record.phases] == [(0, "warmup"), *((1, phase) for phase in phases)]
    for arm in ("experiment", "control"):
        for split in ("reward", "test"):
            assert list(rows(record, arm, split)) == [(0, "baseline"), (0, "warmup"), *((1, p) for p in phases)]
    assert [row.active_heads for row in rows(record, "control").values()] == [16] * 8
    mine = rows(record, "experiment")
    assert mine[0, "warmup"].loss == rows(record, "control")[0, "warmup"].loss
    assert mine[1, "pruning"].sparsity == 0.25
    assert mine[1, "growth"].active_heads == 14
    assert all(row.ppl == pytest.approx(math.exp(row.loss)) for row in record.evaluations)
    for name in ("warmup/stabilisation.json", "pruning/cycle_1.json", "fine_tuning/cycle_1.json"):
        assert (record.folder / name).is_file()
    grown = [event for event in record.events if event.edit == "grow"]
    assert len(grown) == 2  # half of four
    assert all(math.isfinite(event.signals["fisher"]) and event.reason for event in record.events)


def test_the_figures_are_those_of_the_model_that_is_kept(run_short, small_text, short):
    record = run_short(save_model=True)
    model = load_plastic(record.folder / "models" / "final").model
    blocks = small_text.blocks("test")[: short().test_blocks]
    assert record.summary["final"]["loss"] == pytest.approx(mean_loss(model, blocks), abs=1e-6)
    assert record.summary["final"]["active_heads"] == int(model.active.sum())
    assert record.config["status"] == "finished"
    assert not list((record.folder / "models").glob("resume*"))


def test_the_warmup_ends_when_the_loss_is_stable(run_short):
    early = run_short("early", warmup_steps=12, stabilisation_window=1, stabilisation_threshold=0.99, training_steps=1)
    assert early.stabilisation.stabilised_at == 3
    assert early.phases[0].details["steps"] == 3
    assert [row.step for row in early.steps if row.arm == "control"] == [4]


def test_the_budget_is_kept_and_the_level_adapts(run_short):
    settings = {"pruning_level": 0.5, "portion": 0.125, "growth_ratio": 0.0, "cycles": 2, "training_steps": 1}
    record = run_short("tight", max_perplexity_increase=0.1, **settings)
    mine, control = rows(record, "experiment"), rows(record, "control")
    for cycle in (1, 2):
        before = mine[cycle, "analysis"]
        after = mine[cycle, "pruning"]
        kept = after.ppl <= 1.1 * control[cycle, "pruning"].ppl
        assert kept or after.active_heads == before.active_heads
    first = record.phases[2].details
    assert 0 < first["pruned_heads"] < first["wanted"] == 8
    assert first["refused"]
    kept = [tried["pruned_share"] for tried in first["budget"] if tried["ppl_ratio"] <= 1.1]
    assert first["pruned_heads"] == max(kept) * 16
    last = first["budget"][-1]  # one head more is too much
    assert (last["pruned_share"], last["ppl_ratio"] > 1.1) == (max(kept) + 1 / 16, True)
    loose = run_short("loose", max_perplexity_increase=1e6, **settings)
    assert mine[1, "pruning"].active_heads > rows(loose, "experiment")[1, "pruning"].active_heads == 8


def test_compressed_mode_removes_for_real(run_short, small_text, short):
    record = run_short(pruning_mode="compressed", cycles=2, pruning_level=0.5)
    assert {event.edit for event in record.events} == {"prune"}
    mine = rows(record, "experiment", "test")
    assert [mine[cycle, "evaluation"].active_heads for cycle in (1, 2)] == [12, 8]
    found = record.summary["compact"]
    compacted = AutoModelForCausalLM.from_pretrained(record.folder / "models" / "compact").eval()
    assert sum(p.numel() for p in compacted.parameters()) == found["parameters"] < found["dense_parameters"]
    assert found["flops_kept"] == pytest.approx(mine[2, "evaluation"].flops_kept)
    assert found["logit_difference"] < 1e-4
    assert found["time_kept"] > 0
    with torch.no_grad():
        ids = small_text.blocks("test")[: short().test_blocks]
        logits = compacted(input_ids=ids).logits[:, :-1]
        loss = float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()))
    assert loss == pytest.approx(mine[2, "evaluation"].loss, abs=1e-5)


class Paid(StrategyDecider):
    """Remembers what it is paid."""

    def __init__(self):
        super().__init__("random")
        self.rewards = []

    def learn(self, reward):
        self.rewards.append(reward)


def test_what_decisions_earn_adds_up_to_the_final_potential(run_short, short):
    decider = Paid()
    record = run_short(decider=decider, cycles=2, decision_every=1, training_steps=2, growth_ratio=0.0)
    assert len(decider.rewards) == 4  # two a cycle
    mine, control = rows(record, "experiment")[2, "evaluation"], rows(record, "control")[2, "evaluation"]
    potential = control.loss - mine.loss - short().flop_price * math.log(mine.flops_kept)
    assert sum(decider.rewards) == pytest.approx(potential, abs=1e-9)


def cut_at(sentence):
    """A listener that presses Ctrl-C when it is told that a phase is over."""

    def say(told):
        if told.startswith(sentence):
            raise KeyboardInterrupt

    return say


EVERYTHING = {"cycles": 2, "training_steps": 2, "repair": "least_squares", "distillation": 0.3, "decision_every": 1}
EVERYTHING |= {"pruning_strategy": "random", "sample_tokens": 4, "warmup_steps": 2}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, small_text):
    """A run that nothing cut."""
    settings = ExperimentSettings(**{**SHORT, **EVERYTHING})
    folder = tmp_path_factory.mktemp("whole") / "run"
    return NeuralPlasticityExperiment(settings, folder, text=small_text, progress=False, pages=False).run()


@pytest.mark.parametrize("cut", ["warmup", "cycle 1 fine_tuning", "cycle 2 pruning"])
def test_a_run_that_was_cut_goes_on_with_the_same_numbers(run_short, small_text, tmp_path, whole, cut):
    """Slow: a run with every option is cut and resumed; the one without a cut is shared."""
    with pytest.raises(KeyboardInterrupt):
        run_short("cut", say=cut_at(cut), **EVERYTHING)
    folder = tmp_path / "cut"
    stopped = RunRecord.read(folder)
    assert stopped.config["status"] == "stopped"
    assert 0 < len(stopped.evaluations) < len(whole.evaluations)
    assert stopped.evaluations == whole.evaluations[: len(stopped.evaluations)]
    done = NeuralPlasticityExperiment.resume(folder, text=small_text, progress=False, pages=False).run()
    assert done.steps == whole.steps
    assert done.evaluations == whole.evaluations
    assert done.signals == whole.signals
    assert done.events == whole.events
    assert done.samples == whole.samples
    for name in ("metrics", "heads", "episodes", "decisions"):
        assert (folder / f"{name}.jsonl").read_text() == (whole.folder / f"{name}.jsonl").read_text()
    again = NeuralPlasticityExperiment.resume(folder, text=small_text, progress=False, pages=False).run()
    assert again.evaluations == whole.evaluations


def test_the_run_is_an_episode_whose_edits_lead_to_the_heads_that_were_measured(whole):
    """The masks are counted from the edits; each that was also measured is the same."""
    steps = run_episode(whole)
    phases = [(row.cycle, row.phase) for row in rows(whole, "experiment", "test").values()]
    assert len(steps) == len(phases) == len((whole.folder / "heads.jsonl").read_text().splitlines())
    measured = {(row.cycle, row.phase): row.active for row in whole.signals}
    assert {step.note.partition(":")[0] for step in steps} >= {"baseline", "warmup", "cycle 1, pruning"}
    both = [(step.active, measured[phase]) for step, phase in zip(steps, phases, strict=True) if phase in measured]
    assert len(both) >= 4
    assert all(told == seen for told, seen in both)
    written = [json.loads(line) for line in (whole.folder / "episodes.jsonl").read_text().splitlines()]
    assert [step["active"] for step in written[-1]["steps"]] == [step.active for step in steps]
    decided = [json.loads(line) for line in (whole.folder / "decisions.jsonl").read_text().splitlines()]
    assert [(row["edit"], row["layer"], row["head"]) for row in decided] == [
        (e.edit, e.layer, e.head) for e in whole.events
    ]


def test_a_controller_in_the_loop_goes_on_with_its_memory(run_short, small_text):
    """Slow: two runs of two cycles, one of them cut and resumed."""

    def rule():
        return ControllerDecider(controllers.PlasticityController(aggressiveness=0.6, min_zeroed_epochs=1))

    settings = {"cycles": 2, "training_steps": 2, "decision_every": 1, "pruning_level": 0.4}
    whole = run_short("whole", rule(), **settings)
    assert {event.phase for event in whole.events} <= {"pruning", "fine_tuning"}
    assert whole.events
    with pytest.raises(KeyboardInterrupt):
        run_short("cut", rule(), cut_at("cycle 2 analysis"), **settings)
    folder = whole.folder.parent / "cut"
    done = NeuralPlasticityExperiment.resume(folder, rule(), text=small_text, progress=False, pages=False).run()
    assert (done.steps, done.evaluations, done.events) == (whole.steps, whole.evaluations, whole.events)


def test_equal_states_are_measured_once_and_changed_ones_again(short, small_text):
    arm = Arm(load_model("bard-gpt2-4x4").model, small_text, short())
    first = arm.signals()
    assert arm.signals() is first
    mask = torch.zeros(arm.model.shape, dtype=torch.bool)
    mask[0, 0] = True
    before = arm.loss("test")
    arm.model.prune(mask)
    after = arm.loss("test")
    blocks = small_text.blocks("test")[: short().test_blocks]
    assert after == pytest.approx(float(sequence_losses(arm.model, blocks).mean().detach()), abs=1e-6)
    assert abs(after - before) > 1e-4
    assert arm.signals() is not first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pruning_level": 1.0}, r"\[0, 1\)"),
        ({"pruning_strategy": "fischer"}, "did you mean 'fisher'"),
        ({"growth_strategy": "magic"}, "unknown growth strategy"),
        ({"pruning_mode": "zipped"}, "adaptive"),
        ({"prune_entropy": "middle"}, "unknown entropy direction"),
        ({"max_perplexity_increase": -0.1}, "at least 0"),
        ({"cycles": 0}, "at least 1"),
        ({"growth_ratio": 1.5}, r"\[0, 1\]"),
        ({"repair": "glue"}, "unknown repair"),
    ],
)
def test_settings_are_checked_where_they_enter(short, changes, message):
    with pytest.raises(InputError, match=message):
        short(**changes)


def test_settings_survive_the_record(short):
    settings = short(max_perplexity_increase=0.1, seed=3)
    assert ExperimentSettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


def test_blocks_of_neurons_are_in_order_unless_a_run_says_otherwise(tmp_path, small_text, short):
    settings = short(mlp_blocks=2)
    run = NeuralPlasticityExperiment(settings, tmp_path / "run", text=small_text, progress=False, pages=False)
    assert run.loaded.model.neuron_order == "kfac"
    ordered = load_model("bard-gpt2-4x4", mlp_blocks=2)
    order_neurons(ordered.model, small_text, "token_fisher")
    run = NeuralPlasticityExperiment(settings, tmp_path / "other", loaded=ordered, text=small_text, pages=False)
    assert run.loaded.model.neuron_order == "token_fisher"
    before = {name: value for name, value in settings.to_json().items() if name != "neuron_order"}
    assert ExperimentSettings.from_json(before).neuron_order == "stored"


def test_what_cannot_run_writes_nothing(tmp_path, short, small_text):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "short.txt").write_text("To be, or not to be, that is the question. " * 800)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "note").write_text("mine")
    for changes, message in (
        ({"dataset": str(tmp_path / "empty.txt")}, "use a longer text"),
        ({"dataset": str(tmp_path / "short.txt"), "max_length": 4096}, "smaller max_length"),
        ({"dataset": str(tmp_path / "short.txt"), "max_length": 600}, "positions of 'bard-gpt2-4x4'"),
        ({"pruning_strategy": "controller"}, "needs a decider"),
    ):
        with pytest.raises(InputError, match=message):
            NeuralPlasticityExperiment(short(**changes), tmp_path / "run").run()
        assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="not an empty folder"):
        NeuralPlasticityExperiment(short(), tmp_path / "used", text=small_text).run()
    assert [path.name for path in (tmp_path / "used").iterdir()] == ["note"]
    with pytest.raises(InputError, match="no run at"):
        NeuralPlasticityExperiment.resume(tmp_path / "used")
    (tmp_path / "used" / "config.json").write_text('{"status": "running"}')
    with pytest.raises(InputError, match="not of this experiment"):
        NeuralPlasticityExperiment.resume(tmp_path / "used")


def test_a_model_that_diverges_leaves_what_was_measured(run_short, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "plasticity_env.steps.learning_settings.LARGEST_RATE", 1e38
    )  # what is allowed takes longer to diverge
    with pytest.raises(InputError, match="diverged"):
        run_short(learning_rate=1e30, warmup_steps=10)
    record = RunRecord.read(tmp_path / "run")
    assert record.config["status"] == "failed"
    assert "diverged" in record.config["error"]
    assert record.steps
    assert record.summary["baseline"]["ppl"] > 1

"""What a run leaves at its end: figures, files, titles and texts that say all of it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from plasticity_env import load_model, load_plastic
from plasticity_env.cycle import NeuralPlasticityExperiment, RunRecord
from plasticity_env.cycle.deciders import Decider, Decision
from plasticity_env.cycle.page.head_pictures import signals_png, states_png
from plasticity_env.cycle.page.story import moments_of
from plasticity_env.cycle.run_rows import SignalsRow
from plasticity_env.cycle.samples import prompt_ids
from plasticity_env.plots import charts
from plasticity_env.plots.visualize import visualize_head_gradients
from tests.plasticity_env.cycle.fake_run import write_fake_run


class OneByOne(Decider):
    """Prunes the next head of layer 0 at every decision."""

    name = "one by one"

    def __init__(self):
        self.taken = 0

    def decide(self, situation):
        prune = torch.zeros_like(situation.active)
        prune[0, self.taken] = True
        self.taken += 1
        none = torch.zeros_like(prune)
        return Decision(prune, none, none)


def test_recovery_counts_what_decisions_within_fine_tuning_cost(run_short):
    record = run_short(decider=OneByOne(), decision_every=1, growth_ratio=0.0, pruning_level=0.5)
    assert [event.phase for event in record.events] == ["pruning", "fine_tuning", "fine_tuning"]
    tuning = next(row for row in record.phases if row.phase == "fine_tuning")
    assert tuning.details["decisions"] == 2
    later = tuning.details["decisions_cost"]
    assert later > 0
    losses = {(row.arm, row.phase): row.loss for row in record.evaluations if row.split == "test"}
    cost, left = (losses["experiment", p] - losses["control", p] for p in ("pruning", "evaluation"))
    assert record.summary["cycles"][0]["recovered"] == pytest.approx(1 - left / (cost + later))
    # the cost of the second and third head is no fault of the training: closing them by hand costs the same at the start
    assert 1 - left / cost < record.summary["cycles"][0]["recovered"]


@pytest.mark.slow
def test_a_run_lists_all_its_files_and_says_finished_last(tmp_path, short, small_text):
    """Slow: a whole run with its pages, pictures and final model."""
    experiment = NeuralPlasticityExperiment(
        short(save_model=True, sample_tokens=4), tmp_path / "run", text=small_text, progress=False
    )
    experiment.before_finished = lambda: (tmp_path / "run" / "metrics" / "mine.txt").write_text("mine")
    record = experiment.run()
    written = {str(path.relative_to(record.folder)) for path in record.folder.rglob("*") if path.is_file()} - {
        "dashboards/dashboard.html"
    }
    page = (record.folder / "dashboards" / "dashboard.html").read_text(encoding="utf-8")
    linked = {match.removeprefix("../") for match in re.findall(r'href="(\.\./[^"]+|[^":#/]+\.png)"', page)}
    linked = {name if "/" in name or not name.endswith(".png") else f"dashboards/{name}" for name in linked}
    assert {name for name in written if not any(part.startswith(".") for part in name.split("/"))} == linked
    assert "metrics/mine.txt" in linked
    assert any(name.startswith("models/final") for name in linked)
    newest = max((path.stat().st_mtime_ns, path.name) for path in record.folder.rglob("*") if path.is_file())
    assert newest[1] == "dashboard.html"  # the page that says "finished" is written when all else is there
    assert (
        load_plastic(record.folder / "models" / "final").model.active.sum() == record.summary["final"]["active_heads"]
    )


def test_no_empty_folder_of_models_is_left(run_short):
    record = run_short(training_steps=1, warmup_steps=1)
    assert not (record.folder / "models").exists()


def test_a_prompt_ends_where_a_word_ends():
    tokenizer = load_model("bard-gpt2-4x4").tokenizer
    text = "Unquestionably the extraordinarily magnificent throne-room " * 4
    block = torch.tensor([tokenizer(text)["input_ids"]])
    ids = prompt_ids(tokenizer, "", block)
    assert 0 < ids.shape[1] <= 16
    prompt, whole = tokenizer.decode(ids[0]), tokenizer.decode(block[0])
    assert whole.startswith(prompt)
    assert whole[len(prompt)].isspace()
    cut = tokenizer.decode(block[0, :16])
    assert not whole[len(cut)].isspace()  # sixteen tokens end within a word here
    one = torch.tensor([tokenizer("a" * 60)["input_ids"]])
    assert prompt_ids(tokenizer, "", one).shape[1] == min(16, one.shape[1])


def inside(figure):
    """Whether all titles lie within a figure and, panel by panel, beside each other."""
    FigureCanvasAgg(figure).draw()
    boxes = [figure._suptitle.get_window_extent()] if figure._suptitle else []
    boxes += [panel.title.get_window_extent() for panel in figure.axes if panel.title.get_text()]
    boxes += [panel._left_title.get_window_extent() for panel in figure.axes if panel._left_title.get_text()]
    return all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 for box in boxes)


def test_titles_are_not_cut(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("plasticity_env.cycle.page.head_pictures.save_png", lambda figure, path: drawn.append(figure))
    record = RunRecord.read(write_fake_run(tmp_path / "run"))
    moments = moments_of(record)
    long = "/a/rather/long/folder/of/somebody/who/keeps/models: the decisions of the cycle and its fine-tuning"
    for moment in moments[1:3]:
        states_png([replace(moment, edits=moment.edits)], long, tmp_path / "x.png")
    states_png(moments[:5], long, tmp_path / "x.png")
    assert len(drawn) == 3
    drawn.append(visualize_head_gradients(torch.rand(4, 4), title=long))
    assert all(inside(figure) for figure in drawn)
    figure = charts.blank_figure(4, 2)
    figure.suptitle(long, x=0.01, ha="left")
    assert not inside(figure)  # what is checked would be seen


def test_the_maps_end_with_the_final_state(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("plasticity_env.cycle.page.head_pictures.save_png", lambda figure, path: drawn.append(figure))
    record = RunRecord.read(write_fake_run(tmp_path / "run"))
    first, last = record.signals[0], record.signals[-1]
    assert isinstance(last, SignalsRow)
    signals_png(record, [first], tmp_path / "x.png", [last])
    (figure,) = drawn
    panels = [panel for panel in figure.axes if panel.images]
    assert [panel.get_title() for panel in panels[:2]] == ["cycle 1" if first.cycle else "warm-up", "at the end"]
    crossed = panels[1].collections[0].get_offsets().astype(int).tolist()  # (head, layer)
    pruned = [[head, layer] for layer, row in enumerate(last.active) for head, on in enumerate(row) if not on]
    assert crossed == pruned
    assert pruned


def test_heads_come_back_with_the_weights_that_they_had(run_short):
    record = run_short(growth_init="revive", repair="least_squares", pruning_level=0.5, training_steps=0)
    edits = [event.edit for event in record.events]
    assert (edits.count("prune"), edits.count("revive"), edits.count("grow")) == (8, 4, 0)
    back = [event for event in record.events if event.edit == "revive"]
    assert {event.phase for event in back} == {"growth"}
    assert all("of 8 pruned heads of largest -dL/dgate" in event.reason for event in back)
    found = {(row.phase): row for row in record.evaluations if (row.arm, row.split) == ("experiment", "test")}
    assert found["growth"].active_heads == 12
    assert found["growth"].loss < found["pruning"].loss
    assert max(max(row) for row in record.signals[-1].gates) == 1.0

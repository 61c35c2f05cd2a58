"""The page of an experiment shows what the record holds, whatever is missing, loads nothing and works in a browser."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markupsafe import escape

from plasticity_env.common.digests import read_rows
from plasticity_env.common.errors import InputError
from plasticity_env.cycle.page import refresh
from plasticity_env.cycle.page.run_page import PAGE, write_pages
from plasticity_env.cycle.page.sections import facts
from plasticity_env.cycle.page.story import headline
from plasticity_env.cycle.record import RunRecord, RunWriter
from plasticity_env.cycle.run_rows import PhaseRow
from tests.plasticity_env.cycle.fake_run import write_fake_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = "</script><script>alert(1)</script>"
PICTURES = ("complete_process", "multi_cycle_process", "attention_heatmaps")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three cycles with its page."""
    folder = write_fake_run(tmp_path_factory.mktemp("run"))
    write_pages(folder, final=False)
    return folder


def own_text(folder: Path) -> str:
    """The page without the library it carries."""
    from plotly.offline import get_plotlyjs

    text = (folder / PAGE).read_text(encoding="utf-8")
    assert text.count(get_plotlyjs()) == 1
    return text.replace(get_plotlyjs(), "")


def page_data(folder: Path) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no strict JSON")

    held = own_text(folder).split('id="page-data">')[1].split("</script>")[0]
    return json.loads(held, parse_constant=refuse)


def card_of(folder: Path, heading: str) -> dict[str, Any]:
    """The figure below a heading."""
    place = re.search(
        rf"<h3>{re.escape(str(escape(heading)))}</h3><div class=\"plot\" id=\"([^\"]+)\"", own_text(folder)
    )
    assert place, heading
    return page_data(folder)["figures"][place.group(1)]


def named(figure: dict[str, Any], name: str, axis: str) -> dict[str, Any]:
    found = [trace for trace in figure["data"] if trace.get("name") == name and trace.get("yaxis", "y") == axis]
    return found[-1]


def test_nothing_is_loaded_and_text_stays_text(tmp_path: Path) -> None:
    folder = write_fake_run(tmp_path, cycles=1)
    events = json.loads((folder / "pruning_events.json").read_text())
    samples = json.loads((folder / "metrics" / "samples.json").read_text())
    config = json.loads((folder / "config.json").read_text())
    events[0] |= {"reason": HOSTILE, "decider": HOSTILE, "phase": HOSTILE}
    samples[0] |= {"text": HOSTILE, "prompt": HOSTILE}
    config["settings"]["model_name"] = config["machine"] = HOSTILE
    for name, held in (("pruning_events", events), ("metrics/samples", samples), ("config", config)):
        (folder / f"{name}.json").write_text(json.dumps(held))
    (folder / "visualizations" / "a <b>.png").touch()
    write_pages(folder, final=False)
    text = own_text(folder)
    assert text.count("<script") == text.count("</script>") == 3
    assert "http://" not in text
    assert "https://" not in text
    links = [link for link in re.findall(r"(?:src|href)=[\"']([^\"']*)", text) if not link.startswith(("data:", "#"))]
    assert "../visualizations/a%20%3Cb%3E.png" in links
    assert all((folder / PAGE).parent.joinpath(link.replace("%20%3Cb%3E", " <b>")).exists() for link in links)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pruning_strategy": "controller"}, "the controller's choice"),
        ({"pruning_mode": "compressed"}, "none: pruning is permanent"),
        ({"growth_strategy": "balanced"}, "balanced"),
        ({"growth_init": "revive"}, "revival, with the old weights"),
    ],
)
def test_what_grows_heads_is_said(tmp_path: Path, changes: dict[str, str], said: str) -> None:
    write_fake_run(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["settings"] |= {"growth_strategy": "random", **changes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert dict(facts(RunRecord.read(tmp_path)))["growth"] == said


def test_blocks_of_neurons_are_called_so(tmp_path: Path) -> None:
    """Two heads and two blocks a layer: together they are units, and entropy is of heads alone."""
    folder = write_fake_run(tmp_path, cycles=1)
    config = json.loads((folder / "config.json").read_text())
    config["settings"]["mlp_blocks"] = 2
    (folder / "config.json").write_text(json.dumps(config))
    write_pages(folder, final=False)
    text = own_text(folder)
    for words in ("active heads", "heads pruned", "every head", "heads were pruned", "Heads, moment", "heads by layer"):
        assert words not in text
    for words in ("Units, moment by moment", "share of units pruned", "head, then MLP block", "layer 3, MLP block 1"):
        assert words in text
    events = RunRecord.read(folder).events
    named = [f"{e.layer}.{e.head}" if e.head < 2 else f"{e.layer} MLP {e.head - 2}" for e in events]
    cells = re.findall(r"<tr data-edit=.*?</tr>", text, re.DOTALL)
    assert len(cells) == len(events)
    for event, name, cell in zip(events, named, cells, strict=True):
        assert f">{name}</td>" in cell
        assert ('long">entropy' in cell) == (event.head < 2)
    entropy, fisher = (list(page_data(folder)["moments"][0]["maps"].values())[at] for at in (0, 4))
    assert all((value is None) == (column >= 2) for line in entropy["z"] for column, value in enumerate(line))
    assert all(value is not None for line in fisher["z"] for value in line)


def test_pictures_of_a_run_that_ends_do_not_say_that_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are drawn before it says that it is finished."""
    folder, drawn = write_fake_run(tmp_path, cycles=1, status="running"), []
    monkeypatch.setattr(refresh, "write_charts", drawn.append)
    refresh.Pages(folder).draw()
    assert headline(RunRecord.read(folder), "x").endswith("(running)")
    assert headline(drawn[0], "x").endswith(": x")


def test_figures_are_valid_plotly(run: Path) -> None:
    import plotly.graph_objects as go

    figures = page_data(run)["figures"]
    text = re.sub(r'"var:\w+"', '"#112233"', json.dumps(figures))
    for figure in json.loads(text).values():
        go.Figure(figure)
    style = own_text(run).split("<style>")[1].split("</style>")[0]
    for name in set(re.findall(r'"var:(\w+)"', json.dumps(figures))) | set(
        re.findall(r"--of: var\(--(\w+)", own_text(run))
    ):
        assert style.count(f"--{name}:") == 2, f"{name} has a light and a dark colour"


def test_process_holds_losses_evaluations_and_edits(run: Path) -> None:
    record, figure = RunRecord.read(run), card_of(run, "Loss, perplexity, heads")
    for arm in ("experiment", "control"):
        rows = [row for row in record.evaluations if row.arm == arm]
        assert named(figure, arm, "y2")["x"] == [row.step for row in rows]
        assert named(figure, arm, "y2")["y"] == pytest.approx([row.ppl for row in rows])
        steps = [row for row in record.steps if row.arm == arm]
        width = max(1, len(steps) // 40)
        for at in (width, len(steps) // 2):
            start = at - width // 2 if width % 2 else at - (width - 1) // 2 - (width - 1) % 2
            mean = np.mean([row.loss for row in steps[start : start + width]])
            assert named(figure, arm, "y")["y"][at] == pytest.approx(mean)
    edits = {(event.step, event.edit) for event in record.events}
    marked = {(x, t["name"]) for t in figure["data"] if t.get("mode") == "markers" for x in t["x"]}
    names = {"prune": "pruned", "revive": "revived", "grow": "grown"}
    assert marked == {(step, names[edit]) for step, edit in edits}
    lines = [shape["x0"] for shape in figure["layout"]["shapes"] if shape["type"] == "line"]
    assert record.stabilisation is not None
    assert set(lines) == {step for step, _ in edits} | {record.stabilisation.stabilised_at}
    bands = [(shape["x0"], shape["x1"]) for shape in figure["layout"]["shapes"] if shape["type"] == "rect"]
    assert bands == [(row.first_step, row.last_step) for row in record.phases if row.last_step > row.first_step]


def test_slider_goes_through_every_measurement(run: Path) -> None:
    record, data = RunRecord.read(run), page_data(run)
    assert len(data["moments"]) == len(record.signals) == 9
    cards = dict(re.findall(r'<h3>([^<]*)</h3><div class="plot" id="(figure-\d+)"', own_text(run)))
    place = cards["Gradient (mean |dL/dgate|)"]
    for moment, row in zip(data["moments"], record.signals, strict=True):
        shown, real = np.array(moment["maps"][place]["z"]), np.array(row.signals["gradient"])
        if data["figures"][place]["data"][0]["zmin"] < 0:
            shown = 10**shown
        np.testing.assert_allclose(shown, real, rtol=1e-3)
        pruned = {(layer, head) for layer, head in np.argwhere(np.array(row.active) == 0).tolist()}
        assert set(zip(moment["pruned"]["y"], moment["pruned"]["x"], strict=True)) == pruned
        assert f"cycle {row.cycle}" in moment["label"]


def test_states_of_the_heads_agree_with_what_was_measured(run: Path) -> None:
    record, figure = RunRecord.read(run), card_of(run, "Edits, and every head after them")
    states = np.array(next(trace["z"] for trace in figure["data"] if trace["type"] == "heatmap"))  # (L*H, moments)
    last = record.signals[-1]
    assert np.array_equal(np.isin(states[:, -1], (1, 3, 4)), np.array(last.active, bool).reshape(-1))
    counts = [np.isin(column, (1, 3, 4)).sum() for column in states.T]
    measured = [row.active_heads for row in record.evaluations if row.arm == "experiment"]
    assert set(counts) == set(measured)


def test_tables_hold_each_decision_and_the_distance_from_the_control_arm(run: Path) -> None:
    record, text = RunRecord.read(run), own_text(run)
    assert text.count("<tr data-edit=") == len(record.events)
    ends = {(row.arm, row.cycle): row for row in record.evaluations if row.phase == "evaluation"}
    for cycle in (1, 2, 3):
        mine, other = ends["experiment", cycle], ends["control", cycle]
        assert f">{mine.ppl / other.ppl - 1:+.1%}<" in text
    mine, other = ends["experiment", 3], ends["control", 3]
    assert f"{mine.ppl / other.ppl - 1:.1%} above the control arm" in text
    for sample in record.samples:
        assert escape(sample.text) in text


def test_only_a_running_page_reloads(tmp_path: Path, run: Path) -> None:
    assert 'http-equiv="refresh"' not in own_text(run)
    folder = write_fake_run(tmp_path, cycles=1, status="running")
    write_pages(folder, final=False)
    assert 'http-equiv="refresh"' in own_text(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"status": "stopped"}))
    write_pages(folder, final=False)
    assert 'http-equiv="refresh"' not in own_text(folder)
    assert "<b>stopped</b>" in own_text(folder)


PARTS = ["metrics/steps.jsonl", "metrics/evaluations.jsonl", "metrics/phases.jsonl", "metrics/signals.jsonl"]
PARTS += ["metrics/samples.json", "warmup/stabilisation.json", "pruning_events.json"]


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_missing_or_cut_leaves_the_rest(tmp_path: Path, part: str) -> None:
    folder = write_fake_run(tmp_path, layers=2, heads=3, cycles=1)
    text = (folder / part).read_text()
    (folder / part).write_text(text[: int(len(text) * 0.6)])
    write_pages(folder, final=False)
    assert page_data(folder)["figures"]
    (folder / part).unlink()
    write_pages(folder, final=False)
    assert page_data(folder)["figures"]
    assert "Traceback" not in own_text(folder)


def test_an_interrupted_phase_and_edits_that_nobody_evaluated_are_said(tmp_path: Path) -> None:
    folder = write_fake_run(tmp_path, cycles=1, status="stopped")
    writer = RunWriter(folder)
    writer.phase(PhaseRow(2, "fine_tuning", 70, 81, 1.0, {"interrupted": True}))
    edit = next(event for event in writer.events if event.edit == "grow")
    writer.add_events([replace(edit, cycle=2, step=80, edit="prune")])
    writer.close()
    write_pages(folder, final=False)
    record, text = RunRecord.read(folder), own_text(folder)
    assert "fine-tuning interrupted" in text
    assert f"Edits after that left {record.evaluations[-2].active_heads - 1} heads active" in text


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run at"):
        write_pages(tmp_path / "nothing")
    (tmp_path / "config.json").write_text('{"status": "running"}')
    write_pages(tmp_path, final=True)
    assert own_text(tmp_path).count(">not measured<") >= 5
    assert not list(tmp_path.rglob("*.png"))


def test_numbers_that_are_none_are_gaps_and_a_missing_control_arm_is_said(tmp_path: Path) -> None:
    folder = write_fake_run(tmp_path, layers=2, heads=2, cycles=1, control=False)
    for name, entry in (("steps", "loss"), ("evaluations", "ppl")):
        path = folder / "metrics" / f"{name}.jsonl"
        rows = read_rows(path)
        rows[3][entry] = None
        rows[4][entry] = math.inf
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "metrics" / "signals.jsonl"
    rows = read_rows(path)
    rows[0]["signals"]["entropy"][0][1] = None
    del rows[1]["signals"]["entropy"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_pages(folder, final=True)
    moments = page_data(folder)["moments"]
    entropy = next(iter(moments[0]["maps"]))
    assert moments[0]["maps"][entropy]["z"][0][1] is None
    assert moments[1]["maps"][entropy]["z"] == [[None, None]] * 2
    text = own_text(folder)
    assert "This run has no control arm" in text
    assert "No control arm was measured" in text
    assert {f"{name}.png" for name in PICTURES} <= {path.name for path in (folder / "dashboards").iterdir()}


def test_pictures_are_drawn_when_the_run_is_over(tmp_path: Path) -> None:
    """Slow: nine pictures are drawn."""
    from PIL import Image

    folder = write_fake_run(tmp_path, layers=12, heads=12, cycles=1, tuning=10)
    write_pages(folder, final=False)
    assert not list(folder.rglob("*.png"))
    write_pages(folder)
    stages = {"active_heads_by_stage", "perplexity_by_phase", "improvement_over_cycles"}
    cycle = {f"{name}_cycle_1" for name in ("entropy", "gradient", "decisions")}
    assert {path.stem for path in (folder / "dashboards").glob("*.png")} == set(PICTURES)
    assert {path.stem for path in (folder / "visualizations").glob("*.png")} == stages | cycle
    for path in folder.rglob("*.png"):
        with Image.open(path) as picture:
            colours = picture.convert("RGB").getcolors(1 << 24)
            assert len(colours) > 20, f"{path.name} is not empty"


PROBE = """<script>
const out = document.documentElement.dataset;
const maps = () => JSON.stringify(Object.keys(page.moments[0].maps).map(id => document.getElementById(id).data[0].z));
const label = () => document.getElementById("moment-label").textContent;
const slider_ = document.getElementById("moment");
out.last = label(); const before = maps();
slider_.value = 0; slider_.dispatchEvent(new Event("input"));
out.first = label(); out.moved = maps() !== before;
document.getElementById("moment-next").click(); out.second = label();
const edit = document.querySelector("[data-filter=edit]");
edit.value = "grow"; edit.dispatchEvent(new Event("input"));
out.filtered = document.getElementById("decision-count").textContent;
out.shown = [...document.querySelectorAll("#decisions tbody tr:not([hidden])")].length;
const told_ = document.getElementById("sample-cycle");
told_.value = "2"; told_.dispatchEvent(new Event("change"));
out.samples = [...new Set([...document.querySelectorAll(".sample[data-cycle]:not([hidden])")]
  .map(card => card.dataset.cycle))].join();
out.plots = [...document.querySelectorAll(".plot")].every(place => place.querySelector(".main-svg"));
out.wide = document.documentElement.scrollWidth > window.innerWidth;
out.ink = getComputedStyle(document.body).color;
</script>"""
WATCH = """<script>
for (const kind of ["error", "unhandledrejection", "securitypolicyviolation"]) addEventListener(kind, event => {
  document.documentElement.dataset.broken = event.message || event.violatedDirective || event.reason; });
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: the page is not opened in a browser")
@pytest.mark.parametrize(("scheme", "width"), [(0, 500), (1, 1280)], ids=["dark-narrow", "light-wide"])
def test_page_works_in_a_browser(run: Path, tmp_path: Path, scheme: int, width: int) -> None:
    """Slow: a browser starts."""
    probed = tmp_path / "page.html"
    text = (run / PAGE).read_text(encoding="utf-8")
    probed.write_text(text.replace("<main>", WATCH + "<main>").replace("</body>", PROBE + "</body>"), encoding="utf-8")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"--blink-settings=preferredColorScheme={scheme}"]
    command += [f"--window-size={width},900", "--enable-logging=stderr", "--virtual-time-budget=4000"]
    command += ["--dump-dom", probed.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = dict(re.findall(r'data-(\w+)="([^"]*)"', re.search(r"<html[^>]*>", done.stdout).group()))
    assert "broken" not in found
    assert "CONSOLE" not in done.stderr
    assert found["moved"] == found["plots"] == "true"
    assert (found["first"], found["second"]) == (
        "cycle 1, analysis, step 40 (1 / 9)",
        "cycle 1, measure, step 40 (2 / 9)",
    )
    assert found["last"] == "cycle 3, growth, step 100 (9 / 9)"
    grown = sum(event.edit == "grow" for event in RunRecord.read(run).events)
    assert found["filtered"].startswith(f"{grown} of ")
    assert int(found["shown"]) == grown > 0
    assert found["samples"] == "2"
    assert found["wide"] == "false"
    red = int(re.findall(r"\d+", found["ink"])[0])
    assert red > 200 if scheme == 0 else red < 60, "dark and light follow the reader's choice"

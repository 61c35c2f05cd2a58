"""The dashboard is one file that loads nothing, invents nothing and works in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markupsafe import escape

from plasticity_env.agents.evaluation.dashboard import write_dashboard
from plasticity_env.common.errors import InputError

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = "a <script>alert(1)</script> & </script>"


def results() -> dict[str, Any]:
    rows = []
    for repair in ("none", HOSTILE):
        for name, worse in (("random", 9.0), ("taylor", 3.0), (HOSTILE, 5.0)):
            for sparsity in (0.25, 0.5):
                for seed in range(2):
                    measured = {"test_ppl": 30 + worse * sparsity + seed, "test_loss": 3.4, "delta_nll": 0.1}
                    cost = {"flops_kept": 1 - sparsity / 2, "active_heads": 3, "seconds": worse, "evaluations": 2}
                    key = {"controller": name, "repair": repair, "sparsity": sparsity, "flop_price": None, "seed": seed}
                    rows.append({**key, **measured, **cost, "active": [[True, seed == 0], [True, False]]})
    chosen = {"controller": "learned", "sparsity": None, "flop_price": 0.5, "test_ppl": 28.0, "seconds": 0.5}
    rows.append({**rows[0], **chosen})
    dense = {"test_loss": 3.4, "test_ppl": 30.0, "flops": 1e9, "heads": 4}
    about = {name: f"{name} {HOSTILE}" for name in ("command", "machine", "model", "dataset")}
    return {**about, "mode": "dummy", "test_blocks": 2, "max_length": 64, "dense": dense, "rows": rows}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "dashboard.html"
    picture = path.with_name("frontier & more.png")
    picture.touch()
    training = [{"global_step": step, "loss/value": None if step == 2 else 1.0 / step} for step in range(1, 9)]
    frames = [(f"step {step} {HOSTILE}", np.full((24, 32, 3), 60 * step, np.uint8)) for step in range(4)]
    files = [picture, path.with_name("gone.json")]
    facts = [("model <b>", HOSTILE)]
    write_dashboard(
        path, title=HOSTILE, results=results(), training=training, frames=frames, summary=facts, files=files
    )
    return path


def own_text(path: Path) -> str:
    """The page without the library it carries."""
    from plotly.offline import get_plotlyjs

    text = path.read_text(encoding="utf-8")
    assert text.count(get_plotlyjs()) == 1
    return text.replace(get_plotlyjs(), "")


def test_plotly_is_in_once_and_nothing_is_loaded(page: Path) -> None:
    text = own_text(page)
    assert "http://" not in text
    assert "https://" not in text
    loaded = re.findall(r"(?:src|href)=[\"']([^\"']*)", text)
    assert [link for link in loaded if not link.startswith("data:")] == ["frontier%20%26%20more.png"]


def test_text_from_outside_stays_text(page: Path) -> None:
    text = own_text(page)
    assert text.count("<script") == text.count("</script>") == 3
    assert f"<title>{escape(HOSTILE)}</title>" in text
    for name in ("command", "machine", "model", "dataset"):
        assert f"{name} {escape(HOSTILE)}" in text
    assert "<b>" not in text.split('id="page-data"')[0]


def test_table_holds_the_means_and_marks_the_best(page: Path) -> None:
    text = own_text(page)
    expected = np.mean([30 + 3 * 0.5, 31 + 3 * 0.5]), np.std([0.0, 1.0], ddof=1)
    best = re.findall(r'class="best">([\d.]+) ± ([\d.]+)<', text)
    assert len(best) == 4, "two settings in each of two repairs"
    assert best[1] == (f"{expected[0]:.2f}", f"{expected[1]:.2f}")
    assert text.count('title="not measured">–') == 5, "what the learned one was not asked, and the others not"


def test_figures_are_valid_plotly_and_hold_the_shares(page: Path) -> None:
    import plotly.graph_objects as go

    data = own_text(page).split('id="page-data">')[1].split("</script>")[0]
    figures = json.loads(data)["figures"]
    maps = []
    for figure in figures.values():
        checked = go.Figure(figure)
        maps += [trace.z for trace in checked.data if trace.type == "heatmap"]
    assert [[0.0, 0.5], [0.0, 1.0]] in [[list(line) for line in share] for share in maps]


def test_what_is_missing_is_not_measured(tmp_path: Path) -> None:
    path = tmp_path / "dashboard.html"
    write_dashboard(path, title="empty", results=None, training=None, frames=[], summary=[], files=[])
    text = own_text(path)
    assert text.count(">not measured<") == 6
    assert 'class="plot"' not in text
    write_dashboard(path, title="x", results={**results(), "rows": []}, training=[], frames=[], summary=[], files=[])
    assert own_text(path).count(">not measured<") == 6


def test_a_picture_of_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    frames = [("start", np.zeros((4, 4, 3), np.float32))]
    with pytest.raises(InputError, match="frame 'start' is float32"):
        write_dashboard(
            tmp_path / "x.html", title="x", results=None, training=None, frames=frames, summary=[], files=[]
        )


PROBE = """<script>
const out = document.documentElement.dataset;
const plots = () => document.querySelectorAll(".main-svg").length;
out.before = plots();
const select = document.getElementById("setting");
select.selectedIndex = 1; select.dispatchEvent(new Event("change"));
const groups = [...document.querySelectorAll("[data-setting]:not([hidden])")];
out.shown = groups.map(group => group.dataset.setting).join("|");
out.after = plots();
document.getElementById("step-next").click();
out.count = document.getElementById("step-label").textContent;
const head = document.querySelector("thead th:nth-child(2)"); head.click();
const names = () => [...head.closest("table").tBodies[0].rows].map(row => row.cells[0].textContent);
out.up = names()[0]; out.uplast = names().at(-1); head.click(); out.down = names()[0]; out.downlast = names().at(-1);
out.wide = document.documentElement.scrollWidth > window.innerWidth;
</script>"""
WATCH = """<script>
for (const kind of ["error", "securitypolicyviolation"]) addEventListener(kind, event => {
  document.documentElement.dataset.broken = event.message || event.violatedDirective; });
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: the page is not opened in a browser")
@pytest.mark.parametrize("scheme", [0, 1], ids=["dark", "light"])
def test_page_works_in_a_browser(page: Path, tmp_path: Path, scheme: int) -> None:
    probed = tmp_path / "page.html"
    text = page.read_text(encoding="utf-8")
    probed.write_text(text.replace("<main>", WATCH + "<main>").replace("</body>", PROBE + "</body>"), encoding="utf-8")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"--blink-settings=preferredColorScheme={scheme}"]
    command += ["--enable-logging=stderr", "--virtual-time-budget=4000", "--dump-dom", probed.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = dict(re.findall(r'data-(\w+)="([^"]*)"', re.search(r"<html[^>]*>", done.stdout).group()))
    assert "broken" not in found
    assert "CONSOLE" not in done.stderr
    assert int(found["after"]) > int(found["before"]) > 0
    assert (found["shown"], found["count"]) == ("50% pruned", "2 / 4")
    assert (found["up"], found["uplast"]) == ("taylor", "learned")
    assert (found["down"], found["downlast"]) == ("random", "learned")
    assert found["wide"] == "false"


def many_controllers() -> dict[str, Any]:
    """Eight rules, of which the later ones do better, a network that does worst, and one controller that prunes nothing."""
    found = {**results(), "units": "heads"}
    template = found["rows"][0]
    rises = {**{f"rule{index}": 0.9 - index / 10 for index in range(8)}, "ann": 2.0}
    found["rows"] = [
        {**template, "repair": "none", "controller": name, "delta_nll": rise} for name, rise in rises.items()
    ]
    found["rows"].append({**template, "repair": "none", "controller": "keep_all", "delta_nll": 0.0, "flops_kept": 1.0})
    return found


def test_six_curves_are_drawn_and_maps_open_on_the_best_controller(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_dashboard(
        path, title="t", results=many_controllers(), training=None, frames=[], summary=[], files=[], headline="Who won.",
        running=True,
    )  # fmt: skip
    text = own_text(path)
    data = json.loads(text.split('id="page-data">')[1].split("</script>")[0])
    frontier = data["figures"]["figure-0"]["data"]
    drawn = [trace["name"] for trace in frontier if trace.get("visible") != "legendonly" and trace["name"] != "dense"]
    assert drawn == ["rule3", "rule4", "rule5", "rule6", "rule7", "ann"]
    assert sum(trace.get("visible") == "legendonly" for trace in frontier) == 4
    headings = re.findall(r"<h3>(\w+), \d+ rows</h3>", text)
    assert (headings[0], headings[-1]) == ("rule7", "keep_all")
    assert "<p>Who won.</p>" in text
    assert 'http-equiv="refresh"' in text

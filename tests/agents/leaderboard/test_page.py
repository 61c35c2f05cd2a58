"""The page in a browser: draws, answers, loads nothing, fits a phone; and what its maps of heads say."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from plasticity_env.agents.leaderboard.report.board_maps import by_round, by_share
from plasticity_env.agents.leaderboard.report.board_page import write_leaderboard
from plasticity_env.agents.leaderboard.report.board_tables import aggregates_of
from plasticity_env.agents.leaderboard.report.labels import kind, label
from plasticity_env.agents.leaderboard.statistics import Results
from tests.agents.leaderboard.fake import BOARD, cells

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FACTORS = {"fisher@1": 1.2, "fisher@4": 1.0, "runs/a/long/<way>/net@4": 0.6, "swap_search:10@4": 0.7, "random@1": 4.0}
PROBE = """<script>
const out = document.documentElement.dataset;
const chip = [...document.querySelectorAll("ul.chips button")].at(-1);
const trace = () => page.figures[chip.dataset.figure].data[Number(chip.dataset.trace)].visible;
out.before = trace(); chip.click(); out.after = trace();
const [player, share] = document.querySelectorAll(".choices select");
const map = document.getElementById(document.querySelector(".choices").dataset.rounds);
out.four = JSON.stringify(map.data[0].z);
player.value = "random@1"; player.dispatchEvent(new Event("change"));
out.one = JSON.stringify(map.data[0].z);
out.plots = [...document.querySelectorAll(".plot")].every(plot => plot.data);
out.wide = document.documentElement.scrollWidth > window.innerWidth;
out.ink = getComputedStyle(document.body).color;
</script>"""
WATCH = """<script>
for (const kind of ["error", "unhandledrejection", "securitypolicyviolation"]) addEventListener(kind, event => {
  document.documentElement.dataset.broken = event.message || event.violatedDirective || event.reason; });
</script>"""


def test_maps_tell_the_share_and_the_round_at_which_a_head_goes() -> None:
    results = Results(cells(FACTORS))
    shares = by_share(results, "fisher@4")["z"]  # fake players prune the first heads first: 1, 4, 6 of 12
    assert shares == [[0.1, 0.3, 0.3, 0.3], [0.5, 0.5, None, None], [None] * 4]
    rounds = by_round(results, "fisher@4", 0.5)
    assert rounds["z"] == [[1, 1, 1, 2], [2, 2, None, None], [None] * 4]
    assert rounds["text"][0][3] == "round 2, 2, 2"
    assert by_round(results, "fisher@1", 0.5)["z"][1] == [1, 1, None, None]


def test_players_have_kinds_and_short_names() -> None:
    kinds = [kind(name) for name in (*FACTORS, "residual_fisher@4", "ann@4", "plasticity@4", "a.b:c@4")]
    assert kinds == ["rule", "rule", "learned", "search", "rule", "own rule", "learned", "rule", "learned"]
    assert label("runs/a/long/way/net@4") == "way/net@4"
    assert label("fisher@4") == "fisher@4"


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: the page is not opened in a browser")
@pytest.mark.parametrize(("scheme", "width"), [(0, 500), (1, 1280)], ids=["dark-narrow", "light-wide"])
def test_page_works_in_a_browser(tmp_path: Path, scheme: int, width: int) -> None:
    boards = [Results(cells(FACTORS)), Results(cells(FACTORS, shares=(0.3,), board=replace(BOARD, model="<b>two</b>")))]
    page = tmp_path / "page.html"
    write_leaderboard(page, boards, aggregates_of(boards), "python scripts/leaderboard.py")
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("<main>", WATCH + "<main>").replace("</body>", PROBE + "</body>"), encoding="utf-8")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"--blink-settings=preferredColorScheme={scheme}"]
    command += [f"--window-size={width},900", "--enable-logging=stderr", "--virtual-time-budget=4000"]
    done = subprocess.run(
        [*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    found = dict(re.findall(r'data-(\w+)="([^"]*)"', re.search(r"<html[^>]*>", done.stdout).group()))
    assert "broken" not in found
    assert "CONSOLE" not in done.stderr
    assert found["before"] != found["after"]
    assert "2" in found["four"]
    assert "2" not in found["one"]
    assert (found["plots"], found["wide"]) == ("true", "false")
    assert "<b>two" not in text
    red = int(re.findall(r"\d+", found["ink"])[0])
    assert red > 200 if scheme == 0 else red < 60, "dark and light follow the reader's choice"

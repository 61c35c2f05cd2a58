"""The study of kinds of text: its texts, a small run from end to end, its tables, and the benchmark of structures."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from plasticity_env import InputError
from plasticity_env.agents.benchmarks.bench_dynamic import dynamic_rows
from plasticity_env.agents.benchmarks.bench_options import Options as BenchOptions
from plasticity_env.agents.studies.dynamic import kinds_of_text, route_report, route_study
from plasticity_env.agents.studies.dynamic.kinds_of_text import Package
from plasticity_env.dynamic import RouteTable


def test_a_package_must_be_the_one_that_is_named(tmp_path: Path) -> None:
    package = Package("made-up", "1", "made-up.whl", "0" * 64, ("false",))
    with pytest.raises(InputError, match=r"put made-up\.whl into"):
        package.get(tmp_path / "new")
    (tmp_path / "made-up.whl").write_bytes(b"something else")
    with pytest.raises(InputError, match="digest differs"):
        package.get(tmp_path)


def test_pages_of_a_debian_package_become_prose() -> None:
    archive = io.BytesIO()
    page = "<html><style>p {}</style><p>" + "Ein Satz. " * 500 + "</p><pre>ls -l</pre><p>&Auml;pfel</p></html>"
    with tarfile.open(fileobj=archive, mode="w:xz") as tar:
        entry = tarfile.TarInfo("./usr/share/debian-reference/ch01.de.html")
        entry.size = len(page)
        tar.addfile(entry, io.BytesIO(page.encode()))
    parts = [("debian-binary", b"2.0\n"), ("data.tar.xz", archive.getvalue())]
    deb = b"!<arch>\n"
    for name, data in parts:
        deb += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    sections = list(kinds_of_text._german(deb))
    assert len(sections) == 2
    assert sections[0].strip().startswith("Ein Satz. Ein Satz.")
    assert sections[1].strip() == "Äpfel"
    assert "ls -l" not in "".join(sections)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Six kinds as if they had been made, and the two files that they are made of."""
    letters = np.random.default_rng(0)
    for number, kind in enumerate(("wikipedia", "shakespeare", "python", "c", "german", "json")):
        words = ["".join(chr(97 + 4 * number + letter) for letter in word) for word in letters.integers(0, 4, (60, 5))]
        rows = [{"text": " ".join(letters.choice(words, 120))} for _ in range(40)]
        (tmp_path / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


@pytest.mark.slow
def test_the_study_runs_and_goes_on(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Slow: a bank is fitted, and every text runs under every structure of it."""
    options = route_study.Options(
        model_name="bard-gpt2-4x4",
        wikitext=texts,
        shakespeare=texts,
        texts=texts,
        output=texts / "out",
        draws=1,
        blocks=2,
        test_blocks=2,
        train_blocks=2,
        max_length=16,
        prefix_tokens=4,
        shares=(0.5,),
    )
    route_study.play(options)
    assert "draw 0: test texts under 8 structures" in capsys.readouterr().out
    table = RouteTable.load(texts / "out" / "draw0" / "test")
    assert len(table) == 12
    assert table.structures[1:3] == ("wikipedia@0.5", "shakespeare@0.5")
    page = route_report.report(route_report.read(texts / "out"), "german")
    for said in (
        "50% of the heads",
        "label oracle",
        "learned levels",
        "german held out",
        "Nearest texts name the kind",
    ):
        assert said in page
    route_study.play(replace(options, draws=2))  # the first draw is there
    assert "draw 0" not in capsys.readouterr().out
    with pytest.raises(InputError, match="play route_study first"):
        route_report.read(texts)


def test_tables_say_what_was_measured() -> None:
    """Two kinds, two structures each: the arms pick what their names say, at the FLOPs that they cost."""
    texts, structures = 4, 4
    loss = np.full((texts, structures), 2.0)
    loss[:, 0] = 1.0
    loss[[0, 1], 1], loss[[2, 3], 2] = 1.1, 1.2
    table = RouteTable(
        kind=np.array([0, 0, 1, 1]),
        features=np.zeros((texts, 34), np.float32),
        loss=loss,
        static_loss=loss,
        probe=np.array([[1, 5, 4, 9.0]] * texts),
        distance=np.array([[0, 1], [0, 1], [1, 0], [0, 1.0]]),
        kinds=("a", "b"),
        structures=("dense", "a@0.5", "b@0.5", "mixture@0.5"),
        labels=("", "a", "b", "mixture"),
        shares=(0.0, 0.5, 0.5, 0.5),
        flops=(10.0, 8.0, 8.0, 8.0),
        kv_bytes=(1.0, 1.0, 1.0, 1.0),
        reader_flops=0.0,
        tokens=8,
        prefix_tokens=2,
        model="made up",
    )
    draw = route_report.Draw(table, None, {"mixture@0.375": np.full(texts, 1.5)})
    assert route_report.own(draw, 0.5).tolist() == [1, 1, 2, 2]
    assert route_report.nearest(draw, 0.5).tolist() == [1, 1, 2, 1]
    assert route_report.best_probe(draw, 0.5).tolist() == [2] * 4
    assert route_report.best_in_hindsight(draw, 0.5).tolist() == [1, 1, 2, 2]
    assert route_report.mixture(draw, 0.5).tolist() == [3] * 4
    assert table.flops_kept(np.array([0, 1])).tolist() == [1.0, pytest.approx((2 + 6 * 0.8) / 8)]
    lines = "\n".join(route_report._shares([draw], 0.5))
    assert "| each kind's own (label oracle) | 0.150 | 0.150 | 0.300" in lines
    priced = route_report._priced(loss - 1.0, table, float(table.flops_kept(np.array([0, 0, 1, 1])).mean()))
    assert priced.tolist() == [1, 1, 0, 0] or table.flops_kept(priced).mean() <= 0.9251


def test_a_structure_is_timed_beside_the_dense_model() -> None:
    options = BenchOptions(models="bard-gpt2-4x4", lengths="32", tokens=64, sparsities="0.5", rounds=1)
    (row,) = dynamic_rows(options)
    assert row.flops_ratio < 1
    assert row.compact_over_flops == pytest.approx(row.compact_ratio / row.flops_ratio)
    assert 0 < row.size_share < 0.05
    assert row.switch_ms > 0

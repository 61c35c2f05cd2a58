"""``plasticity bank``: texts in files become a folder and a table; and a bank served by the program itself."""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="FastAPI is not installed: pip install 'plasticity-env[serve]'")

import httpx

from plasticity_env.agents.serving.bank_config import BankConfig
from plasticity_env.agents.serving.bank_fitting import fit_bank
from plasticity_env.data.text import load_text
from plasticity_env.dynamic import StructureBank
from plasticity_env.signals.text_loss import evaluate_model

SMALL = {"model_name": "bard-gpt2-4x4", "blocks": 6, "test_blocks": 4, "max_length": 32, "device": "cpu"}


@pytest.fixture
def texts() -> tuple[str, ...]:
    return "plays=shakespeare", f"code={argparse.__file__}"


def test_a_bank_of_files_is_written_and_its_table_is_right(tmp_path: Path, texts, loaded) -> None:
    place = tmp_path / "bank"
    lines = fit_bank(BankConfig(texts=texts, shares="0.25,0.5", output_dir=place, **SMALL))
    assert lines[0].split("  ")[0] == "structure"
    bank = StructureBank.load(place, loaded.model)
    assert bank.names[1:] == [f"{label}@{share}" for label in ("plays", "code", "mixture") for share in ("0.25", "0.5")]
    assert [line.split()[0] for line in lines[1:]] == bank.names[1:5]
    held_out = load_text(argparse.__file__, loaded.tokenizer, block_size=32).drawn("test", 4, 0)
    row = lines[4].split()
    for name, said in zip(("dense", "code@0.5", "mixture@0.5"), row[2:], strict=True):
        bank.install(name)
        assert float(said) == pytest.approx(evaluate_model(loaded.model, held_out)["loss"], abs=2e-3)
    bank.install(0)
    kept = bank.flops(32)[4] / bank.flops(32)[0]
    assert row[1] == f"{float(kept):.1%}"
    fit_bank(BankConfig(texts=texts[:1], shares="0.5", output_dir=place, **SMALL))  # takes the place of the first
    assert StructureBank.load(place, loaded.model).names[1:] == ["plays@0.5", "mixture@0.5"]


@pytest.mark.slow
def test_the_program_serves_a_bank_until_ctrl_c(tmp_path: Path, bank) -> None:
    """Slow: a process of its own imports everything."""
    bank.save(tmp_path / "bank")
    words = [
        "serve",
        "--bank",
        str(tmp_path / "bank"),
        "--model_name",
        "bard-gpt2-4x4",
        "--port",
        "0",
        "--device",
        "cpu",
    ]
    command = [sys.executable, "-m", "plasticity_env", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            found = re.match(r"page: (http://127\.0\.0\.1:\d+/)", server.stdout.readline())
            assert found, server.stderr and server.stderr.read()
            body = {"prompt": "JULIET.\nO happy dagger", "max_tokens": 3, "stream": True}
            answer = httpx.post(f"{found[1]}v1/completions", json=body, timeout=60)
            chunks = [json.loads(line[6:]) for line in answer.text.split("\n\n") if line.startswith("data: {")]
            assert chunks[0]["choices"][0]["plasticity"]["structure"] in bank.names
            server.send_signal(signal.SIGINT)
            _, said = server.communicate(timeout=60)
        finally:
            server.kill()
    assert (server.returncode, said) == (130, "stopped\n")

"""Controllers go to a hub and come back the same; what a hub does not do is one sentence."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, constants

from plasticity_env import InputError, controllers
from plasticity_env.__main__ import main
from plasticity_env.controllers import ANNController, HeadNetwork, NetworkConfig
from tests.controllers.fake_hub import FakeHub, fake_hub

FILES = {"controller.json", "controller.safetensors", "digests.json", "config.json", "README.md"}


@pytest.fixture
def controller() -> ANNController:
    torch.manual_seed(0)
    info = {
        "agent": "ppo",
        "env": "heads",
        "models": ["bard-gpt2-4x4"],
        "seed": 3,
        "global_step": 64,
        "mode": "adaptive",
    }
    return ANNController(HeadNetwork(NetworkConfig(width=8)), info=info)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """A hub of this process's client, and an empty cache."""
    with fake_hub() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", "hf_fake")
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield served


def same(one: ANNController, other: ANNController) -> bool:
    mine, theirs = one.network.state_dict(), other.network.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in mine.items())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a training."""
    folder = tmp_path / "run"
    folder.mkdir()
    arguments = {"agent": "ppo", "settings": {"dataset": "shakespeare", "max_length": 64}, "output_dir": None}
    (folder / "config.yaml").write_text(yaml.safe_dump(arguments))
    rows = [{"step": 32, "episode/ppl": 30.0}, {"step": 64, "episode/ppl": 21.5, "loss": 2.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """What a comparison measured, with two seeds of one controller."""
    shared = {"controller": "mine", "repair": "least_squares", "sparsity": 0.3, "flop_price": None, "flops_kept": 0.875}
    rows = [{**shared, "seed": seed, "test_ppl": ppl} for seed, ppl in enumerate((20.0, 23.0))]
    found = {"model": "bard-neox-5x6", "dataset": "shakespeare", "test_blocks": 8, "max_length": 64}
    path = tmp_path / "results.json"
    path.write_text(json.dumps({**found, "dense": {"test_ppl": 18.0}, "rows": rows}))
    return path


def test_a_controller_comes_back_from_a_hub_the_same(hub: FakeHub, controller: ANNController, run, results) -> None:
    url = controller.push_to_hub("me/mine", run=run, results=results)
    assert url.startswith(f"{hub.url}/me/mine/commit/")
    sent = hub.files["me/mine"]
    assert set(sent) == FILES
    back = ANNController.from_pretrained("me/mine", sparsity=0.25)
    assert same(controller, back)
    assert back.info == controller.info
    assert back.sparsity == 0.25
    assert same(controller, controllers.make("hub:me/mine"))
    card = sent["README.md"].decode()
    assert 'from_pretrained("me/mine")' in card
    for row in (
        "| Environment | heads |",
        "| Trained on | bard-gpt2-4x4 |",
        "| Text | shakespeare |",
        "| Training seed | 3 |",
        "| Training, last episode/ppl | 21.5 |",
        "| mine | least_squares | share 0.3 | 2 | 21.50 | 0.875 |",
    ):
        assert row in card.splitlines()
    assert "the dense model has 18.00" in card
    assert "## Limits" in card
    assert ModelCard(card).data.library_name == "plasticity-env"


def test_weights_that_changed_on_the_hub_are_refused(hub: FakeHub, controller: ANNController) -> None:
    controller.push_to_hub("me/mine")
    data = bytearray(hub.files["me/mine"]["controller.safetensors"])
    data[-1] ^= 1
    hub.files["me/mine"]["controller.safetensors"] = bytes(data)
    with pytest.raises(InputError, match=r"'controller\.safetensors' in .* is damaged"):
        ANNController.from_pretrained("me/mine")


def test_what_is_not_there_and_what_is_refused_is_one_sentence(hub: FakeHub, controller: ANNController) -> None:
    with pytest.raises(InputError, match=r"cannot load a controller from 'me/none': it holds no controller\.json"):
        ANNController.from_pretrained("me/none")
    with pytest.raises(InputError, match=r"cannot load a controller from 'a/b/c': give USER/NAME or a folder"):
        ANNController.from_pretrained("a/b/c")
    with pytest.raises(InputError, match="hub:USER/NAME"):
        controllers.make("hub")
    hub.refuses = True
    with pytest.raises(InputError, match=r"cannot push to 'me/mine': the hub at http://127\.0\.0\.1:\d+ refused"):
        controller.push_to_hub("me/mine")


def test_a_folder_comes_back_the_same_and_holds_no_pickle(controller: ANNController, tmp_path: Path) -> None:
    controller.save_pretrained(tmp_path / "saved")
    assert {path.name for path in (tmp_path / "saved").iterdir()} == FILES
    assert same(controller, ANNController.from_pretrained(tmp_path / "saved"))
    assert "Not measured." in (tmp_path / "saved" / "README.md").read_text()


def test_a_run_or_results_that_cannot_be_read_send_nothing(
    hub: FakeHub, controller: ANNController, run, results
) -> None:
    (run / "metrics.jsonl").write_text("{")
    with pytest.raises(InputError, match="a file of the run in"):
        controller.push_to_hub("me/mine", run=run)
    with pytest.raises(InputError, match="is not the folder of a training"):
        controller.push_to_hub("me/mine", run=run / "nothing")
    results.write_text("[]")
    with pytest.raises(InputError, match=r"is not the results\.json of a comparison"):
        controller.push_to_hub("me/mine", results=results)
    assert hub.files == {}


@pytest.mark.slow
def test_the_command_pushes_to_the_endpoint_of_the_environment(tmp_path: Path) -> None:
    """Slow: a process of its own, which reads HF_ENDPOINT as a user's would."""
    environment = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_fake"}
    with fake_hub() as hub:
        done = subprocess.run(
            [sys.executable, "-m", "plasticity_env", "push", "--controller", "ann", "--repo_id", "me/ranker"],
            env={**environment, "HF_ENDPOINT": hub.url},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"controller: {hub.url}/me/ranker/commit/")
        assert set(hub.files["me/ranker"]) == FILES


def test_a_silent_hub_is_one_sentence(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    with pytest.raises(SystemExit) as left:
        main(["push", "--repo_id", "me/ranker"])
    assert left.value.code == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: cannot push to 'me/ranker': the hub at {url} does not answer")
    with pytest.raises(InputError, match="does not answer and nothing is cached"):
        ANNController.from_pretrained("me/ranker")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nowhere to push to"),
        (["--controller", "fisher", "--repo_id", "me/mine"], "has no weights to push"),
        (["--controller", "anm", "--repo_id", "me/mine"], "unknown controller 'anm'"),
    ],
)
def test_bad_words_are_one_sentence(words: list[str], said: str, capsys) -> None:
    with pytest.raises(SystemExit) as left:
        main(["push", *words])
    assert left.value.code == 2
    assert said in capsys.readouterr().err

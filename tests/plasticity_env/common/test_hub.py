"""Without a network a name on the hub fails at once; nothing stays switched."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from huggingface_hub import constants

from plasticity_env.common.hub import answers, hub_or_cache


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_something_that_listens_answers(monkeypatch):
    monkeypatch.delenv("http_proxy", raising=False)
    monkeypatch.delenv("HTTP_PROXY", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert answers(f"http://127.0.0.1:{server.getsockname()[1]}")
    assert not answers(f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert answers(f"http://127.0.0.1:{closed_port()}")


def test_the_switch_goes_back():
    before = constants.HF_HUB_OFFLINE
    with hub_or_cache():
        pass
    assert constants.HF_HUB_OFFLINE is before


def test_a_hub_model_and_a_hub_text_fail_at_once(tmp_path):
    """What the client waits for between its tries is counted instead of waited for: a slow machine changes nothing."""
    program = (
        "import time, plasticity_env as p\n"
        "waited = []\n"
        "time.sleep = waited.append\n"
        "for call in (lambda: p.load_model('distilgpt2'), lambda: p.load_text('wikitext', None)):\n"
        "    try: call()\n"
        "    except p.InputError as error: print(error)\n"
        "print(sum(waited))\n"
    )
    environment = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": f"http://127.0.0.1:{closed_port()}", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    model, text, waited = done.stdout.splitlines()
    assert model.startswith("cannot load model 'distilgpt2'")
    assert "bard-gpt2-4x4" in model
    assert text.startswith("cannot load data set 'wikitext'")
    assert "--dataset shakespeare" in text
    assert float(waited) == 0
    assert "Retrying" not in done.stderr

"""The endpoints, by a real client over a real socket."""

from __future__ import annotations

import json
import queue
import re
import socket
import time
from collections.abc import Sequence

import pytest

pytest.importorskip("fastapi", reason="FastAPI is not installed: pip install 'plasticity-env[serve]'")

import torch

from plasticity_env.agents.serving.jobs import Job, Picked, Piece
from plasticity_env.dynamic import NearestTexts, RoutedModel
from tests.agents.serving.conftest import HOSTILE, Running
from tests.scripts.commands import code_of

PLAY, TABLE = "JULIET.\nO happy dagger, this is thy sheath", "501,Rome,17.20,31\n502,Padua,8.05,12\n503,"


def error_of(answer, status: int) -> str:
    """The sentence of an answer in OpenAI's shape of an error."""
    assert answer.status_code == status, answer.text
    told = answer.json()["error"]
    assert set(told) == {"message", "type", "param", "code"}
    assert "\n" not in told["message"]
    return told["message"]


def test_a_completion_is_what_the_routed_model_says(server: Running, loaded, bank) -> None:
    answer = server.ask(prompt=PLAY, max_tokens=6, temperature=0).json()
    routed = RoutedModel(bank, NearestTexts(bank))
    ids = torch.tensor([loaded.tokenizer(PLAY)["input_ids"]])
    whole = routed.generate(ids, max_new_tokens=6, do_sample=False)
    assert routed.last is not None
    (choice,) = answer["choices"]
    told = choice["plasticity"]
    assert choice["text"] == loaded.tokenizer.decode(whole[0, ids.shape[1] :])
    assert (choice["finish_reason"], answer["object"], answer["model"]) == ("length", "text_completion", "bard")
    assert answer["usage"] == {"prompt_tokens": ids.shape[1], "completion_tokens": 6, "total_tokens": ids.shape[1] + 6}
    assert told["structure"] == bank.names[int(routed.last.structures)]
    assert told["flops_kept"] == pytest.approx(routed.last.flops_kept, rel=1e-9)
    assert told["prefix_tokens"] == int(routed.last.prefix)


def streamed(server: Running, **body) -> list[dict]:
    """The chunks of a streamed answer."""
    with server.client.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = answer.read().decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]


def test_a_stream_says_the_structure_first_and_the_same_text(server: Running) -> None:
    body = {"prompt": TABLE, "max_tokens": 8, "temperature": 0.9, "seed": 5}
    whole, chunks = server.ask(**body).json(), streamed(server, **body)
    assert len({chunk["id"] for chunk in chunks}) == 1
    first, last = chunks[0]["choices"][0], chunks[-1]["choices"][0]
    assert first["plasticity"]["structure"] == whole["choices"][0]["plasticity"]["structure"]
    assert last["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["choices"][0]["text"]
    assert chunks[-1]["usage"] == whole["usage"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)


def test_prompts_of_a_request_run_together_each_under_its_own_structure(server: Running) -> None:
    before = server.worker.batches
    answer = server.ask(prompt=[PLAY, TABLE, PLAY], max_tokens=3, seed=1).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    structures = [choice["plasticity"]["structure"] for choice in answer["choices"]]
    assert structures == ["plays@0.5", "tables@0.5", "plays@0.5"]
    assert server.worker.batches == before + 1
    assert answer["choices"][0]["plasticity"]["seed"] == 1
    assert answer["usage"]["completion_tokens"] == sum(c["plasticity"]["completion_tokens"] for c in answer["choices"])


def test_a_model_names_a_structure(server: Running) -> None:
    names = [row["id"] for row in server.client.get("/v1/models").json()["data"]]
    assert names == ["bard", "bard:dense", "bard:plays@0.5", "bard:tables@0.5", "bard:mixture@0.5"]
    told = server.ask(prompt=PLAY, max_tokens=2, model="bard:tables@0.5").json()["choices"][0]["plasticity"]
    assert told["structure"] == "tables@0.5"
    dense = server.ask(prompt=PLAY, max_tokens=2, model="bard:dense").json()["choices"][0]["plasticity"]
    assert dense["flops_kept"] > 1  # the router's projection beside all heads
    assert dense["flops_kept"] > told["flops_kept"]
    assert "unknown model 'gpt': this server has bard, " in error_of(server.ask(prompt=PLAY, model="gpt"), 404)


def test_structures_and_what_they_served(server: Running, bank) -> None:
    def row() -> dict:
        (found,) = [row for row in server.client.get("/v1/structures").json() if row["name"] == "mixture@0.5"]
        return found

    before = row()
    server.ask(prompt=PLAY, max_tokens=3, model="bard:mixture@0.5")
    after = row()
    assert after["heads"] == bank["mixture@0.5"].active.tolist()
    assert after["blocks"] == [[]] * 4
    assert after["flops_kept"] == pytest.approx(float(bank.flops(256)[3] / bank.flops(256)[0]))
    assert after["requests"] == before["requests"] + 1
    assert 0 < after["tokens"] - before["tokens"] <= 3
    assert server.client.get("/health").json()["status"] == "ok"


BAD = [
    ({}, "prompt is missing"),
    ({"promt": PLAY}, "unknown field 'promt': this server takes prompt, model, "),
    ({"prompt": 3}, "prompt: input should be a valid string, got 3"),
    ({"prompt": []}, "a request has 1 to 16 prompts, this one 0"),
    ({"prompt": [PLAY] * 17}, "this one 17"),
    ({"prompt": "a"}, "is 1 tokens long and needs at least 2"),
    ({"prompt": "word " * 99}, "more than the 60 that this server reads"),
    ({"prompt": PLAY, "max_tokens": 201}, "max_tokens 201 is more than the 200"),
    ({"prompt": PLAY, "max_tokens": 0}, "max_tokens: input should be greater than or equal to 1, got 0"),
    ({"prompt": PLAY, "max_tokens": 3.5}, "max_tokens: input should be a valid integer"),
    ({"prompt": PLAY, "max_tokens": True}, "max_tokens: input should be a valid integer, got True"),
    ({"prompt": PLAY, "temperature": 3}, "temperature: input should be less than or equal to 2, got 3"),
    ({"prompt": PLAY, "seed": -1}, "seed: input should be greater than or equal to 0, got -1"),
    ({"prompt": PLAY, "seed": 2**32}, "seed: input should be less than or equal to 4294967295"),
    ({"prompt": PLAY, "n": 2}, "n: input should be 1, got 2"),
    ({"prompt": PLAY, "stop": "x"}, "stop: input should be None, got 'x'"),
    ({"prompt": PLAY, "stream": "yes"}, "stream: input should be a valid boolean, got 'yes'"),
]


@pytest.mark.parametrize(("body", "said"), BAD, ids=[said for _, said in BAD])
def test_a_bad_value_is_one_sentence(server: Running, body: dict, said: str) -> None:
    assert said in error_of(server.ask(**body), 422)
    assert said in error_of(server.ask(**body, **({} if "stream" in body else {"stream": True})), 422)


def test_fields_at_the_value_that_changes_nothing_are_let_through(server: Running) -> None:
    neutral = {"n": 1, "best_of": 1, "top_p": 1, "stop": None, "echo": False, "frequency_penalty": 0, "logprobs": None}
    assert server.ask(prompt=PLAY, max_tokens=1, user="somebody", **neutral).status_code == 200


def test_a_body_that_is_no_json_object(server: Running) -> None:
    post, sent = server.client.post, {"Content-Type": "application/json"}
    assert "is not JSON" in error_of(post("/v1/completions", content=b"{", headers=sent), 400)
    assert "with the header Content-Type: application/json" in error_of(
        post("/v1/completions", content=json.dumps({"prompt": PLAY}).encode(), headers={"Content-Type": "text/plain"}),
        400,
    )
    assert "the body" in error_of(post("/v1/completions", content=b"[1]", headers=sent), 422)
    assert "nothing at '/v2'" in error_of(server.client.get("/v2"), 404)
    assert "does not take GET" in error_of(server.client.get("/v1/completions"), 405)


def test_a_large_body_is_refused_whatever_its_header_says(server: Running) -> None:
    body = json.dumps({"prompt": "x" * 3000}).encode()
    sent = {"Content-Type": "application/json"}
    assert "larger than the 2000 bytes" in error_of(
        server.client.post("/v1/completions", content=body, headers=sent), 413
    )
    pieces = iter([body[:1000], body[1000:]])  # chunked: no length is told
    assert "larger than" in error_of(server.client.post("/v1/completions", content=pieces, headers=sent), 413)
    assert server.client.get("/health").status_code == 200


def test_a_name_of_a_stranger_does_not_reach_a_loopback_server(server: Running) -> None:
    answer = server.client.get("/health", headers={"Host": "evil.example"})
    assert "the host 'evil.example' is not this server's" in error_of(answer, 400)


def test_a_full_queue_is_said(server: Running) -> None:
    """One request more than the queue holds is refused whole; the queue goes on."""
    assert "too many requests are waiting" in error_of(server.ask(prompt=[PLAY] * 7, max_tokens=1), 429)
    assert server.ask(prompt=[PLAY] * 6, max_tokens=1).status_code == 200


def test_a_client_that_leaves_a_stream_ends_its_request(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: queue.Queue[bool] = queue.Queue()

    def endless(jobs: Sequence[Job]) -> None:
        """Says the same until nobody listens; gives up after a minute."""
        (job,) = jobs
        job.send(Picked(1, 0))
        for _ in range(6000):
            if job.cancelled:
                break
            job.send(Piece("on "))
            time.sleep(0.01)
        seen.put(job.cancelled)

    monkeypatch.setattr(server.engine, "run", endless)
    body = {"prompt": PLAY, "max_tokens": 200, "stream": True}
    with server.client.stream("POST", "/v1/completions", json=body) as long:
        assert next(long.iter_lines()).startswith("data: ")
    assert seen.get(timeout=90)
    monkeypatch.undo()
    assert server.ask(prompt=PLAY, max_tokens=1).status_code == 200


def test_the_page_loads_only_its_own_files_and_values_stay_text(server: Running) -> None:
    page = server.client.get("/")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
    assert "unsafe" not in policy
    assert HOSTILE not in page.text
    assert "&lt;script&gt;alert" in page.text
    assert re.findall(r"<script[^>]*>", page.text) == ['<script src="serve.js">']
    assert not re.search(r"<style|\sstyle=|\son\w+=|https?:", page.text)
    for path, kind in (("/serve.js", "text/javascript"), ("/serve.css", "text/css")):
        file = server.client.get(path)
        assert file.headers["content-type"].startswith(kind)
        assert not re.search(r"https?://|@import|url\(|innerHTML|eval\(", file.text)
    assert "--paper" in server.client.get("/serve.css").text  # the house's colours, dark ones among them
    for name in re.findall(r'at\("([\w-]+)"\)', server.client.get("/serve.js").text):
        assert f'id="{name}"' in page.text, name


def test_a_port_in_use_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert code_of(["serve", "--demo", "--port", str(port)]) == 2
    said = capsys.readouterr().err
    assert (
        said == f"error: port {port} of 127.0.0.1 is in use: choose another with --port, or --port 0 for a free one\n"
    )

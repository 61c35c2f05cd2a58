"""Batches on the model: who draws what, which pass is whose, when a row ends, and what it cost."""

from __future__ import annotations

import queue
import threading
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi", reason="FastAPI is not installed: pip install 'plasticity-env[serve]'")

import torch

from plasticity_env.agents.serving.batch_run import BatchRun
from plasticity_env.agents.serving.jobs import Ended, Failed, Job, Picked, Piece
from plasticity_env.agents.serving.token_drawing import RowDrawing
from plasticity_env.agents.serving.worker import BusyError, Worker
from plasticity_env.common.errors import InputError
from plasticity_env.dynamic import RoutedModel

PLAY, TABLE = "JULIET.\nO happy dagger, this is thy sheath", "501,Rome,17.20,31\n502,Padua,8.05,12\n503,"


def drawing(*settings: tuple[float, int]) -> RowDrawing:
    """For rows of these temperatures and seeds."""
    jobs = [Job(torch.zeros(2), 1, temperature, seed, print) for temperature, seed in settings]
    return RowDrawing(jobs, lambda: range(len(jobs)))


def test_draws_have_the_softmax_of_the_tempered_logits() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    draw, count = drawing((0.7, 3)), 4000
    drawn = torch.stack([draw(torch.zeros(1, 1), logits)[0].argmax() for _ in range(count)])
    expected = (logits[0] / 0.7).softmax(0)
    error = (expected * (1 - expected) / count).sqrt()
    assert bool(((drawn.bincount(minlength=4) / count - expected).abs() < 5 * error).all())


def test_a_row_draws_the_same_whoever_is_beside_it_and_temperature_0_takes_the_likeliest() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    kept = logits.clone()
    alone, beside = drawing((1.0, 8)), drawing((0.5, 1), (1.0, 8), (0.0, 2))
    for _ in range(5):
        together = beside(torch.zeros(3, 1), logits)
        assert torch.equal(alone(torch.zeros(1, 1), logits[1:2])[0], together[1])
        assert torch.equal(together[2], logits[2])
    assert torch.equal(logits, kept)


def test_a_compacted_batch_is_heard_pass_by_pass(make_engine, job) -> None:
    """Structures 2, 1, 2 are picked: first the second request has a pass, then the other two."""
    engine = make_engine()
    jobs, heard = zip(*[job(PLAY, 2) for _ in range(3)], strict=True)
    run = BatchRun(jobs, engine.routed, engine.tokenizer, True, frozenset((7,)))
    run.heard(torch.tensor([2, 1, 2]))
    run.put(torch.zeros(1, 9))
    assert (list(run.running), run.columns) == ([1], 9)
    run.put(torch.tensor([40]))
    run.put(torch.tensor([41]))
    run.put(torch.zeros(2, 5))
    assert (list(run.running), run.columns) == ([0, 2], 5)
    run.put(torch.tensor([42, 7]))
    run.put(torch.tensor([43, 44]))
    text = engine.tokenizer.decode
    assert [[event.text for event in events if isinstance(event, Piece)] for events in heard] == [
        [text([42]), text([43])],
        [text([40]), text([41])],
        [],
    ]
    assert [events[0] for events in heard] == [Picked(2, 0), Picked(1, 0), Picked(2, 0)]
    assert [(events[-1].reason, events[-1].tokens) for events in heard] == [("length", 2), ("length", 2), ("stop", 1)]
    run.heard(torch.tensor([1, 1, 1]))
    with pytest.raises(RuntimeError, match="a pass of 2 prompts came where 3 were due"):
        run.put(torch.zeros(2, 5))


@pytest.mark.parametrize("compacted", [False, True])
def test_each_request_gets_the_tokens_of_its_own_prompt_and_structure(
    make_engine, job, loaded, bank, compacted
) -> None:
    """Each first token is the likeliest of the whole text's logits; lengths are those that were asked for."""
    wanted = [(PLAY, 2, 3), (TABLE, 1, 1), (f"{TABLE}Rome", 2, 2), (PLAY, None, 4)]
    jobs, heard = zip(*[job(prompt, tokens, structure) for prompt, structure, tokens in wanted], strict=True)
    make_engine(compacted=compacted).run(jobs)
    routed = RoutedModel(bank)
    for one, events, (_, structure, tokens) in zip(jobs, heard, wanted, strict=True):
        named = None if structure is None else torch.tensor([structure])
        logits = routed.forward(one.ids[None], structures=named)[0, -1]
        best, second = logits.topk(2).values
        assert best - second > 1e-2, "the prompt leaves no doubt"
        picked, piece, ended = events[0], events[1], events[-1]
        assert piece.text == loaded.tokenizer.decode([int(logits.argmax())])
        assert picked.structure == int(routed.last.structures)
        assert (ended.reason, ended.tokens) == ("length", tokens)


def test_costs_are_those_of_the_routed_model_also_where_structures_change(make_engine, job) -> None:
    turns = iter(range(100))
    router = SimpleNamespace(pick=lambda view: torch.full((len(view),), 1 + next(turns) % 2))
    engine = make_engine(router, switch_every=3)
    one, heard = job(PLAY, 10)
    engine.run([one])
    picks = [event for event in heard if isinstance(event, Picked)]
    assert [pick.structure for pick in picks[:3]] == [1, 2, 1]
    ended = heard[-1]
    assert isinstance(ended, Ended)
    assert ended.flops_kept == pytest.approx(engine.routed.last.flops_kept, rel=1e-9)


def test_a_request_that_nobody_waits_for_ends(make_engine, job) -> None:
    one, heard = job(PLAY, 400)
    send = one.send

    def leave(event) -> None:
        send(event)
        one.cancelled = isinstance(event, Piece)

    one.send = leave
    make_engine().run([one])
    assert [type(event) for event in heard] == [Picked, Piece]


def test_requests_that_do_not_fit_beside_each_other_run_apart(make_engine, job, loaded) -> None:
    """A short prompt that wants many tokens would run past the positions of a long one."""
    positions = loaded.model.config.n_positions
    long, short = job("word " * (positions // 2), 4)[0], job(PLAY, positions // 2 + 50)[0]
    engine = make_engine()
    assert len(long.ids) + short.max_tokens > positions
    assert engine.fitting([long, short, long]) == [[long, long], [short]]


class _Fake:
    """An engine that notes its batches and waits for leave."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.begun, self.leave = threading.Event(), threading.Event()

    def run(self, jobs) -> None:
        self.batches.append([job.seed for job in jobs])
        self.begun.set()
        assert self.leave.wait(60)
        for job in jobs:
            job.send(Ended("length", 1, 1, 1.0, 0.0, 0.5, 10.0))


def test_requests_that_arrive_while_others_run_share_the_next_batch(job) -> None:
    engine, ends = _Fake(), queue.Queue()
    worker = Worker(engine, batch_size=3, waiting=4, patience=0.0)
    worker.start()

    def submit(*seeds: int) -> None:
        jobs = [job(PLAY, seed=seed)[0] for seed in seeds]
        for one in jobs:
            one.send = ends.put
        worker.submit(jobs)

    submit(0)
    assert engine.begun.wait(60)
    submit(1)
    submit(2, 3)
    submit(4)
    with pytest.raises(BusyError):
        submit(5)
    engine.leave.set()
    for _ in range(5):
        ends.get(timeout=60)
    worker.close()
    assert engine.batches == [[0], [1, 2, 3], [4]]
    assert not worker.alive
    assert (worker.batches, worker.served[0].requests, worker.served[0].flops) == (3, 5, 25.0)


def test_a_server_that_closes_tells_those_that_run_and_those_that_wait(job) -> None:
    engine = _Fake()
    worker, told = Worker(engine, patience=0.0), [queue.Queue(), queue.Queue()]
    worker.start()
    for hears in told:
        one, _ = job(PLAY)
        one.send = hears.put
        worker.submit([one])
        assert engine.begun.wait(60)
    closing = threading.Thread(target=worker.close)
    closing.start()
    assert [hears.get(timeout=60) for hears in told] == [Failed("the server is closing", False)] * 2
    engine.leave.set()
    closing.join()
    worker.close()
    assert not worker.alive
    assert engine.batches == [[0]]


def test_a_batch_that_fails_is_told_and_the_next_one_runs(make_engine, job) -> None:
    engine, heard = make_engine(), queue.Queue()
    worker, run = Worker(engine), engine.run
    worker.start()

    def submit() -> None:
        one, _ = job(PLAY, 1)
        one.send = heard.put
        worker.submit([one])

    for error, caller in ((InputError("not so"), True), (ValueError("odd"), False)):
        engine.run = lambda jobs, error=error: (_ for _ in ()).throw(error)
        submit()
        told = heard.get(timeout=60)
        assert isinstance(told, Failed)
        assert told.caller is caller
        assert str(error) in told.message
    engine.run = run
    submit()
    while not isinstance(told, Ended):
        told = heard.get(timeout=60)
    worker.close()
    assert not worker.alive


def test_what_cannot_be_combined_is_refused(make_engine) -> None:
    with pytest.raises(InputError, match="compacted models cannot"):
        make_engine(compacted=True, switch_every=4)
    with pytest.raises(InputError, match="unknown structure 'none'"):
        make_engine(prefix_structure="none")

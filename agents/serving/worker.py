"""A queue of requests and the one thread that runs the model."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from plasticity_env.agents.serving.engine import Engine
from plasticity_env.agents.serving.jobs import Ended, Event, Failed, Job, Picked
from plasticity_env.common.errors import InputError, first_line

LOG = logging.getLogger(__name__)


class BusyError(Exception):
    """More requests wait than the server lets."""


@dataclass
class Served:
    """What a structure has served; a request counts for the one that was picked first.

    Attributes:
        requests, tokens, seconds: Of its requests.
        flops, flops_dense: Forward FLOPs spent, and what the dense model would have.
    """

    requests: int = 0
    tokens: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    flops_dense: float = 0.0


class Worker:
    """Runs requests that arrive together as one batch.

    Args:
        engine: Runs them.
        batch_size: Most requests in a batch.
        waiting: Most requests in the queue.
        patience: Seconds that the first request of a batch waits for others.

    Attributes:
        served: By number of a structure.
        batches: How many batches have run.
    """

    def __init__(self, engine: Engine, batch_size: int = 8, waiting: int = 64, patience: float = 0.01) -> None:
        self.engine, self._batch_size, self._patience = engine, batch_size, patience
        self._queue: queue.Queue[Job | None] = queue.Queue(waiting)
        self._running: Sequence[Job] = ()
        self._stopping = False
        self.served: defaultdict[int, Served] = defaultdict(Served)
        self.batches = 0
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._queue.qsize()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue requests.

        Raises:
            BusyError: Too many wait; none of these was queued.
        """
        if self._queue.qsize() + len(jobs) > self._queue.maxsize:
            raise BusyError
        for job in jobs:
            job.arrived = time.monotonic()
            job.send = self._counted(job)
            self._queue.put(job)

    def close(self) -> None:
        """Let nobody wait any longer, and end the thread after the step that it is at."""
        self._stopping = True
        for job in self._running:
            job.cancelled = True
        with suppress(queue.Full):
            self._queue.put_nowait(None)
        self._thread.join(10)

    def _work(self) -> None:
        while not self._stopping:
            first = self._queue.get()
            if first is not None:
                self._run([job for job in self._together(first) if not job.cancelled])

    def _together(self, first: Job) -> list[Job]:
        """The first request and those that arrive while it waits."""
        jobs, until = [first], time.monotonic() + self._patience
        while len(jobs) < self._batch_size:
            try:
                job = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if job is None:
                break
            jobs.append(job)
        return jobs

    def _run(self, jobs: Sequence[Job]) -> None:
        if not jobs or self._stopping:
            return
        self._running = jobs
        try:
            self.engine.run(jobs)
        except InputError as error:
            self._fail(jobs, str(error), caller=True)
        except Exception as error:  # the server goes on, whatever befell one batch
            LOG.exception("a batch failed")
            self._fail(jobs, f"the model failed on this request ({first_line(error)})", caller=False)
        finally:
            self._running = ()
            self.batches += 1

    @staticmethod
    def _fail(jobs: Sequence[Job], message: str, caller: bool) -> None:
        for job in jobs:
            job.send(Failed(message, caller))

    def _counted(self, job: Job) -> object:
        """The request's own ``send``, with what it has cost put down."""
        send, picked = job.send, [0]

        def tell(event: Event) -> None:
            if isinstance(event, Picked) and not event.tokens:
                picked[0] = event.structure
            elif isinstance(event, Ended):
                served = self.served[picked[0]]
                served.requests += 1
                served.tokens += event.tokens
                served.seconds += event.seconds
                served.flops += event.flops_kept * event.flops_dense
                served.flops_dense += event.flops_dense
            send(event)

        return tell

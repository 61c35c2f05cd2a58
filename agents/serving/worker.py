"""A queue of requests and the one thread that runs the model."""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
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
        requests, tokens, seconds: Totals of its requests.
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
        engine: Engine that runs the requests.
        batch_size: Most requests in a batch.
        waiting: Most requests in the queue.
        patience: Seconds that the first request of a batch waits for others.

    Attributes:
        served: What was served, by number of a structure.
        batches: How many batches were begun.
    """

    def __init__(self, engine: Engine, batch_size: int = 8, waiting: int = 64, patience: float = 0.01) -> None:
        self.engine, self._batch_size, self._most, self._patience = engine, batch_size, waiting, patience
        self._waiting: deque[Job] = deque()
        self._change = threading.Condition()
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
        return len(self._waiting)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue requests, all or none.

        Raises:
            BusyError: Too many wait.
        """
        with self._change:
            if len(self._waiting) + len(jobs) > self._most:
                raise BusyError
            for job in jobs:
                job.arrived = time.monotonic()
                job.send = self._counted(job.send)
            self._waiting.extend(jobs)
            self._change.notify()

    def close(self) -> None:
        """Tell all that wait, and end the thread after the step that it is at; safe to call twice."""
        with self._change:
            self._stopping = True
            jobs = [*self._running, *self._waiting]
            self._waiting.clear()
            self._change.notify()
        for job in jobs:
            job.cancelled = True
        self._fail(jobs, "the server is closing", caller=False)
        if self._thread.is_alive():
            self._thread.join(10)

    def _work(self) -> None:
        while not self._stopping:
            self._run([job for job in self._together() if not job.cancelled])

    def _together(self) -> list[Job]:
        """Requests of the next batch: the first one, and those that arrive while it waits."""
        with self._change:
            self._change.wait_for(lambda: self._stopping or self._waiting)
            self._change.wait_for(lambda: self._stopping or len(self._waiting) >= self._batch_size, self._patience)
            return [self._waiting.popleft() for _ in range(min(self._batch_size, len(self._waiting)))]

    def _run(self, jobs: Sequence[Job]) -> None:
        if not jobs or self._stopping:
            return
        self._running = jobs
        self.batches += 1
        try:
            self.engine.run(jobs)
        except InputError as error:
            self._fail(jobs, str(error), caller=True)
        except Exception as error:  # the server goes on, whatever befell one batch
            LOG.exception("a batch failed")
            self._fail(jobs, f"the model failed on this request ({first_line(error)})", caller=False)
        finally:
            self._running = ()

    @staticmethod
    def _fail(jobs: Sequence[Job], message: str, caller: bool) -> None:
        for job in jobs:
            job.send(Failed(message, caller))

    def _counted(self, send: Callable[[Event], None]) -> Callable[[Event], None]:
        """A request's ``send`` that also puts down what it has cost."""
        picked = [0]

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

"""What transformers remarks while it loads: passed on once that has ended well, so that a failure is one sentence."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging as library_logging


class _Kept(logging.Handler):
    """Keeps records instead of writing them."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def remarks_held_back() -> Iterator[None]:
    """Hold back warnings and log lines of transformers; where the block fails, they are dropped.

    Warnings and handlers are of the whole process: use it under the lock of `plasticity_env.model.loading`.
    """
    library, kept = logging.getLogger("transformers"), _Kept()
    before = library.handlers
    library.handlers = [kept]
    try:
        with warnings.catch_warnings(record=True) as held:
            yield
    finally:
        library.handlers = before
    for warning in held:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    for record in kept.records:
        for handler in before:
            handler.handle(record)


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep transformers' own progress bars quiet: they would tear this package's."""
    shown = library_logging.is_progress_bar_enabled()
    library_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            library_logging.enable_progress_bar()

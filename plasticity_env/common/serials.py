"""Numbers that no two things share, neither in one process nor in processes that exchange them in pickles."""

from __future__ import annotations

import itertools
import os
import secrets

_BITS = 60  # so many numbers that two processes which begin anywhere among them do not meet
_numbers = itertools.count(secrets.randbits(_BITS))


def next_serial() -> int:
    """A number that nothing else has."""
    return next(_numbers)


def _begin_elsewhere() -> None:
    global _numbers
    _numbers = itertools.count(secrets.randbits(_BITS))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_elsewhere)  # else a child would go on with its parent's numbers

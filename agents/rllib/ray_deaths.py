"""The one sentence about a process of Ray's that died: which one, as far as Ray says it, and what to do."""

from __future__ import annotations

import re
from typing import Any

from plasticity_env.common.errors import InputError, first_line

WAY_OUT = "what was finished is kept: run the same again, with fewer workers where memory ran out"
_PARTS = {  # what Ray's messages hold, one way or another
    "actor": r"actor(?:_id| ID)?[ :=]+([0-9a-f]{16,})",
    "task": r"task ID[ :=]+([0-9a-f]{16,})",
    "process": r"pid[ :=]+(\d+)",
    "node": r"(?:\bip|\bIP)[ :=]+([\w.:]*[\w])",
}


def death(error: Exception, what: str, **known: str) -> InputError:
    """The sentence about a process that died.

    Args:
        error: Exception that Ray raised.
        what: What died, for example "a task's process"; it begins the sentence.
        **known: What the caller knows of it by name, for example ``task``; the rest is read from the exception.
    """
    named = {**_read(error), **known}
    where = ", ".join(f"{name} {value}" for name, value in named.items())
    return InputError(f"{what} died{f' ({where})' if where else ''}: {first_line(error, 200).rstrip('.')}; {WAY_OUT}")


def absent(algorithm: Any) -> str:
    """The env runners of an RLlib algorithm that do not answer, each with its number and its actor."""
    group = algorithm.env_runner_group
    healthy = set(group.healthy_worker_ids())
    actors = group._worker_manager.actors()
    return ", ".join(f"env runner {key} (actor {actors[key]._actor_id.hex()})" for key in actors if key not in healthy)


def _read(error: Exception) -> dict[str, str]:
    named = {name: match[1] for name, part in _PARTS.items() if (match := re.search(part, str(error)))}
    actor = getattr(error, "actor_id", None)
    return {**named, "actor": str(actor)} if actor else named

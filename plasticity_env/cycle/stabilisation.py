"""Whether a loss still falls: means over windows of steps, one compared with the next."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from plasticity_env.cycle.run_rows import Stabilisation

PATIENCE = 2  # windows in a row that must not improve: one may be a hard batch


def stabilisation(losses: Sequence[float], window: int, threshold: float, patience: int = PATIENCE) -> Stabilisation:
    """Judge the losses of a warm-up.

    With m_i the mean of the i-th ``window`` losses, the loss has stabilised at the end of the first window i where the
    last ``patience`` relative improvements (m_{i-1} - m_i) / |m_{i-1}| are all below ``threshold``. A loss that rises does
    not improve. Steps after the last whole window do not count.

    Args:
        losses: One a step, nats per token.
        window: Steps in a window.
        threshold: Least improvement that counts as one.
        patience: Windows in a row.

    Returns:
        The decision with what led to it.
    """
    whole = len(losses) // window
    means = [sum(losses[i * window : (i + 1) * window]) / window for i in range(whole)]
    gains = [(a - b) / max(abs(a), 1e-12) for a, b in pairwise(means)]
    at = None
    for end in range(patience, len(gains) + 1):
        if all(gain < threshold for gain in gains[end - patience : end]):
            at = (end + 1) * window
            break
    return Stabilisation(window, threshold, list(losses), means, at, _reason(gains, window, threshold, patience, at))


def _reason(gains: list[float], window: int, threshold: float, patience: int, at: int | None) -> str:
    test = f"windows of {window} steps, least improvement {threshold:.2%}, {patience} windows in a row"
    if at is not None:
        last = gains[at // window - 1 - patience : at // window - 1]
        found = " and ".join(f"{gain:.2%}" for gain in last)
        return f"stable at step {at}: the last windows improved the mean loss by {found} ({test})"
    if len(gains) < patience:
        needed = (patience + 1) * window
        return f"not judged: {needed} steps are needed and there were fewer ({test})"
    return f"not stable when the steps were over: the last window improved the mean loss by {gains[-1]:.2%} ({test})"

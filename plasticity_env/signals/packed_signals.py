"""Signals by name in one tensor: thousands of measurements are remembered, and a tensor each takes far more than its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache

from torch import Tensor


class PackedSignals(Mapping[str, Tensor]):
    """A read-only mapping from names to (L, U) signals.

    Args:
        names: K of them.
        table: (K, L, U), in the order of the names.
    """

    def __init__(self, names: tuple[str, ...], table: Tensor) -> None:
        self._rows, self._table = _rows(names), table

    def __getitem__(self, name: str) -> Tensor:
        return self._table[self._rows[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


@lru_cache(maxsize=64)
def _rows(names: tuple[str, ...]) -> dict[str, int]:
    """The signal that each row belongs to; all measurements of the same signals share it."""
    return {name: row for row, name in enumerate(names)}

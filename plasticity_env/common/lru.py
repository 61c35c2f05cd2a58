"""Stores that forget what was not used for longest: once they hold too many values, or too many bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class Memo(Generic[V]):
    """A least-recently-used store that counts its hits."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.hits, self.misses = capacity, 0, 0
        self._values: OrderedDict[Hashable, V] = OrderedDict()

    def get(self, key: Hashable) -> V | None:
        if key in self._values:
            self._values.move_to_end(key)
            self.hits += 1
            return self._values[key]
        self.misses += 1
        return None

    def put(self, key: Hashable, value: V) -> V:
        self._values[key] = value
        if len(self._values) > self.capacity:
            self._values.popitem(last=False)
        return value

    def clear(self) -> None:
        self._values.clear()

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._values


class ByteCache(Generic[V]):
    """A least-recently-used store with a limit in bytes.

    Args:
        limit: Most bytes at once; 0 stores nothing.

    Attributes:
        nbytes: Bytes held at the moment, as declared with `put`.
    """

    def __init__(self, limit: float) -> None:
        self.limit, self.nbytes = limit, 0
        self._values: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()

    def get(self, key: Hashable) -> V | None:
        """The value, or None."""
        found = self._values.get(key)
        if found is None:
            return None
        self._values.move_to_end(key)
        return found[0]

    def put(self, key: Hashable, value: V, nbytes: int) -> bool:
        """Store a value in the place of an older one; says whether it fits at all."""
        self.drop(key)
        if nbytes > self.limit:
            return False
        self._values[key] = (value, nbytes)
        self.nbytes += nbytes
        while self.nbytes > self.limit:
            _, (_, freed) = self._values.popitem(last=False)
            self.nbytes -= freed
        return True

    def drop(self, key: Hashable) -> None:
        """Forget one value."""
        found = self._values.pop(key, None)
        self.nbytes -= 0 if found is None else found[1]

    def clear(self) -> None:
        """Forget everything."""
        self._values.clear()
        self.nbytes = 0

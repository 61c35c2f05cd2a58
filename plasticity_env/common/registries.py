"""Things of one kind by name: what a user extends is one call that adds to one of these."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Generic, Protocol, TypeVar

from plasticity_env.common.errors import InputError, unknown
from plasticity_env.common.plugins import check_plugins


class Named(Protocol):
    """A record that carries its own name."""

    @property
    def name(self) -> str: ...


V = TypeVar("V")
N = TypeVar("N", bound=Named)


class Registry(dict[str, V], Generic[V]):
    """A dictionary whose errors name what there is, and whose own entries stay what they are.

    Args:
        kind: What a name stands for, for errors.
        things: What comes with the package.
        way_out: What else a caller can do where a name is unknown, appended to the error's sentence.
    """

    def __init__(self, kind: str, things: Mapping[str, V], way_out: str = "") -> None:
        super().__init__(things)
        self.kind, self._own, self._way_out = kind, frozenset(things), way_out

    def add(self, name: str, thing: V) -> None:
        """Register a thing of one's own; the same name again replaces it.

        Raises:
            InputError: The name is empty or no string, or the package's own.
        """
        if not isinstance(name, str) or not name:
            raise InputError(f"a {self.kind} is registered under a name, got {name!r}")
        if name in self._own:
            raise InputError(f"{self.kind} {name!r} comes with the package: register yours under another name")
        self[name] = thing

    def find(self, name: str) -> V:
        """Look a thing up.

        Raises:
            InputError: Nothing is registered under this name, or a module of ``PLASTICITY_PLUGINS`` is missing.
        """
        check_plugins()
        if not isinstance(name, str) or name not in self:
            raise unknown(self.kind, name, self, self._way_out)
        return self[name]


def by_name(records: Iterable[N]) -> dict[str, N]:
    """Records under their own names."""
    return {record.name: record for record in records}


class Registered:
    """A record that is pickled as its name while it is the one that its registry holds: its functions may be lambdas.

    A process that loads such a pickle must have registered the record before, as the one that wrote it.
    """

    name: str

    @classmethod
    def registry(cls) -> Registry[Any]:
        """Where records of this class are looked up."""
        raise NotImplementedError

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self.registry().get(self.name) is self:
            return _registered, (type(self), self.name)
        return super().__reduce_ex__(protocol)


def _registered(kind: type[Registered], name: str) -> Any:
    return kind.registry().find(name)

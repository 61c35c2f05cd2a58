"""Whether pruned units may come back."""

from __future__ import annotations

from enum import StrEnum

from plasticity_env.common.errors import InputError


class PruningMode(StrEnum):
    """ADAPTIVE: pruned units may come back. COMPRESSED: pruning is permanent. Names are read in any case."""

    ADAPTIVE = "adaptive"
    COMPRESSED = "compressed"

    @classmethod
    def _missing_(cls, value: object) -> PruningMode | None:
        return cls.__members__.get(value.upper()) if isinstance(value, str) else None

    @classmethod
    def parse(cls, value: str | PruningMode) -> PruningMode:
        """Read a mode by name.

        Raises:
            InputError: No such mode.
        """
        try:
            return cls(value)
        except ValueError:
            raise InputError(f"unknown mode {value!r}: use 'adaptive' or 'compressed'") from None

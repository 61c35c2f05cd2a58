"""Whether pruned units may come back."""

from __future__ import annotations

from enum import StrEnum

from plasticity_env.common.errors import InputError


class PruningMode(StrEnum):
    """ADAPTIVE: pruned units may come back. COMPRESSED: pruning is for ever."""

    ADAPTIVE = "adaptive"
    COMPRESSED = "compressed"

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

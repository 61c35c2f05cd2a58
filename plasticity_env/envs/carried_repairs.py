"""The repairs that one bench put onto a model which other environments may use as well."""

from __future__ import annotations

from collections.abc import Hashable

from plasticity_env.model.plastic_model import PlasticModel


class CarriedRepairs:
    """Tells the repairs that a bench left on a model from those of others: each repair has a number of its own.

    Args:
        model: Carries the repairs.
    """

    def __init__(self, model: PlasticModel) -> None:
        self._model = model
        self._key: Hashable = None
        self._own: dict[int, int] = {}  # serial by site, of what the bench left there for this key

    def keep(self, key: Hashable) -> list[int]:
        """Take back every repair that the bench did not make for ``key``; returns the sites that stay repaired."""
        if key != self._key:
            self._key, self._own = key, {}
        self._model.undo_repair([site for site, serial in self._serials().items() if self._own.get(site) != serial])
        return self._model.repaired_sites

    def note(self, key: Hashable) -> None:
        """Say that what the model carries now is what the bench made for ``key``."""
        self._key, self._own = key, self._serials()

    def whole(self, key: Hashable) -> bool:
        """Whether the model carries exactly what the bench made for ``key``."""
        return key == self._key and self._own == self._serials()

    def forget(self) -> None:
        """Count no repair as the bench's own."""
        self._key, self._own = None, {}

    def _serials(self) -> dict[int, int]:
        return {site: repair.serial for site, repair in self._model.repairs.items()}

"""A gated model that knows whether its weights are those that were measured: a version, and PyTorch's own counters of changes."""

from __future__ import annotations

from typing import Any

from plasticity_env.common.serials import next_serial
from plasticity_env.model.applied_repairs import AppliedRepairs
from plasticity_env.model.gated_model import GatedModel


class WatchedModel(GatedModel):
    """Counts versions of the weights; see `PlasticModel`, which edits them.

    Attributes:
        weight_version: Changes with the weights: two equal versions, of any models, are equal weights.
    """

    weight_version: int
    _repairs: AppliedRepairs
    _stamp: list[int] | None

    def weights_changed(self) -> None:
        """Declare that parameters changed, so that measurements of older weights are not reused."""
        self.weight_version = next_serial()  # copies, also in other processes, never share one for different weights
        self._stamp = self._counters()

    def notice_changes(self) -> None:
        """Find out whether somebody else changed parameters in place (an optimizer, ``load_state_dict``): a new version then."""
        if self._stamp is None:  # a copy, whose tensors count anew
            self._stamp = self._counters()
        elif self._stamp != self._counters():
            self.weights_changed()

    def _counters(self) -> list[int]:
        """How often each parameter was changed in place, as its tensor counts; our own edits go past the counters."""
        known = self._repairs.added_biases()
        return [p._version for p in self.model.parameters() if id(p) not in known and not p.is_inference()]

    def __getstate__(self) -> dict[str, Any]:
        self.notice_changes()  # a copy's counters begin anew: it could not tell any more
        return self.__dict__.copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._stamp = None

"""A router that a server listens to, and that gives way where a request names its structure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from plasticity_env.dynamic.prefix import PrefixView
from plasticity_env.dynamic.routed_model import Router


class HeardRouter:
    """Picks as another router does.

    Args:
        router: Router that picks.

    Attributes:
        wanted: Structures that the requests of the batch ask for, None where the router is to pick.
        heard: Is told the (B,) numbers after each pick.
        prefix_structure: Structure under which the prefixes ran that the other router knows; None where any will do.
    """

    def __init__(self, router: Router) -> None:
        self._router = router
        self.prefix_structure: int | None = getattr(router, "prefix_structure", None)
        self.wanted: Sequence[int | None] = ()
        self.heard: Callable[[Tensor], None] = lambda picked: None

    def pick(self, view: PrefixView) -> Tensor:
        """(B,) numbers of structures."""
        picked = torch.as_tensor(self._router.pick(view)).cpu().long().clone()
        for row, number in enumerate(self.wanted):
            if number is not None:
                picked[row] = number
        self.heard(picked)
        return picked

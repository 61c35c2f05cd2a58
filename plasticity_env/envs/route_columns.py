"""What an agent sees in plasticity/Route-v0: names, order and bounds of the columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from gymnasium import spaces

from plasticity_env.common.errors import InputError

if TYPE_CHECKING:
    from plasticity_env.dynamic.route_table import RouteTable
    from plasticity_env.envs.route_settings import RouteSettings

Z_BOUND = 10.0
Bounds = dict[str, tuple[float, float]]
STRUCTURE_COLUMNS: Bounds = {
    "share": (0, 1),  # of the units that it prunes
    "log_cost_kept": (-16, 16),  # of a whole text: FLOPs, or bytes of the KV cache, over the dense model's
    "mean_rise": (-16, 16),  # of the loss over the dense model's on the train texts, nats
    "distance": (
        0,
        10,
    ),  # log of the prefix's distance to the texts it was fitted on, over the nearest kind's; 0: no kind
    "probed": (0, 1),  # whether it was tried on the prefix
    "probe_rise": (-16, 16),  # what that gave: loss over the prefix, less the dense model's, nats; 0 before
}
REQUEST_COLUMNS: Bounds = {
    "log_price": (-16, 16),
    "probes_left": (0, 1),  # share of the probes that may still be made
    "log_batch": (0, 16),  # sequences of the request; 0 with budget="flops", as the next one
    "log_tokens": (0, 18),  # tokens of each
}
CHANGING = tuple(list(STRUCTURE_COLUMNS).index(name) for name in ("distance", "probed", "probe_rise"))


def signal_names(table: RouteTable) -> list[str]:
    """A column for each layer, unit and signal: ``entropy_0.3`` is that of head 3 in layer 0.

    Raises:
        InputError: The table has no signals.
    """
    from plasticity_env.dynamic.prefix_signals import PREFIX_SIGNALS  # loads torch

    if table.signals is None:
        raise InputError(
            "this route table holds no signals of units: measure one with measure_routes(..., signals=True)"
        )
    layers, units = table.signals.shape[1:3]
    return [f"{signal}_{layer}.{unit}" for layer in range(layers) for unit in range(units) for signal in PREFIX_SIGNALS]


@dataclass(frozen=True)
class RouteColumns:
    """Columns of the observations on one table.

    Attributes:
        prefix: Names of what the first tokens tell: the projection of hidden states, loss, entropy, distance to each kind of
            text that structures were fitted on, with ``signals`` also three signals of each unit; each as a z-score over the
            train texts.
        structures: Number K of structures.
        mask: Length of the action mask; 0 where every action is allowed.
    """

    prefix: tuple[str, ...]
    structures: int
    mask: int

    @classmethod
    def of(cls, table: RouteTable, settings: RouteSettings) -> RouteColumns:
        """The columns of a table."""
        hidden = table.features.shape[1] - 2
        kinds = table.distance.shape[1]
        names = [f"hidden_{number}" for number in range(hidden)] + ["loss", "entropy"]
        names += [f"distance_{number}" for number in range(kinds)]
        if settings.signals:
            names += signal_names(table)
        structures = len(table.structures)
        return cls(tuple(names), structures, 2 * structures if settings.probes else 0)

    @property
    def width(self) -> int:
        """Length of a flat observation."""
        return len(self.prefix) + self.structures * len(STRUCTURE_COLUMNS) + len(REQUEST_COLUMNS) + self.mask

    def parts(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """The parts of flat observations (..., D), as views of them."""
        front, first = flat.shape[:-1], len(self.prefix)
        second = first + self.structures * len(STRUCTURE_COLUMNS)
        third = second + len(REQUEST_COLUMNS)
        found = {
            "prefix": flat[..., :first],
            "structures": flat[..., first:second].reshape(*front, self.structures, len(STRUCTURE_COLUMNS)),
            "request": flat[..., second:third],
        }
        return found | ({"action_mask": flat[..., third:]} if self.mask else {})

    def shown(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """The parts of flat observations as the dictionary that agents see: copies, the mask as int8."""
        return {
            name: part.astype(np.int8) if name == "action_mask" else np.array(part)
            for name, part in self.parts(flat).items()
        }

    def flat_space(self) -> spaces.Box:
        """Space of flat observations: ``prefix``, each structure in turn, ``request``, the action mask."""
        edges = []
        for edge in (0, 1):
            row = np.zeros(self.width, dtype=np.float32)
            parts = self.parts(row)
            parts["prefix"][...] = (-Z_BOUND, Z_BOUND)[edge]
            parts["structures"][...] = [limits[edge] for limits in STRUCTURE_COLUMNS.values()]
            parts["request"][...] = [limits[edge] for limits in REQUEST_COLUMNS.values()]
            if self.mask:
                parts["action_mask"][...] = edge
            edges.append(row)
        return spaces.Box(edges[0], edges[1], dtype=np.float32)

    def space(self) -> spaces.Dict:
        """Space of the dictionaries."""
        flat = self.flat_space()
        low, high = self.shown(flat.low), self.shown(flat.high)
        return spaces.Dict({name: spaces.Box(low[name], high[name], dtype=low[name].dtype.type) for name in low})

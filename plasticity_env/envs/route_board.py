"""What a route table and the settings come to: losses, costs and columns, ready to be looked up by text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from plasticity_env.common.errors import InputError
from plasticity_env.envs.route_columns import STRUCTURE_COLUMNS, Z_BOUND, RouteColumns
from plasticity_env.envs.route_settings import RouteSettings
from plasticity_env.envs.route_split import split_texts

if TYPE_CHECKING:
    from plasticity_env.dynamic.route_table import RouteTable

MIB = 2.0**20
_COLUMN = {name: index for index, name in enumerate(STRUCTURE_COLUMNS)}


class RouteBoard:
    """Arrays over a table's N texts and K structures; numpy alone.

    Args:
        table: Measured losses and costs.
        settings: Arguments of the environment.

    Attributes:
        chosen: (n,) numbers of the texts that episodes are drawn from.
        quality: (N, K) dense loss less the loss, nats per token.
        kept: (K,) FLOPs of a whole text over the dense model's, the prefix dense and the reading of it included.
        probe_cost: (K,) FLOPs of a probe over those of a whole text of the dense model.
        token_mib: (K,) MiB that a token adds to the KV cache.
        prefix: (N, p) float32 columns of the prefix.
        static: (K, c) float32 columns of the structures that no text changes.
        distance, probe_rise: (N, K) float32, the two columns that a text changes.
        center, scale: (p,) what prefix columns are centred on and divided by.

    Raises:
        InputError: Probes of more structures than there are, or an unknown kind held out.
    """

    def __init__(self, table: RouteTable, settings: RouteSettings) -> None:
        structures = len(table.structures)
        if settings.probes > structures - 1:
            raise InputError(
                f"probes must be at most {structures - 1}, one for each structure but the dense one, got {settings.probes}"
            )
        self.table, self.settings, self.columns = table, settings, RouteColumns.of(table, settings)
        share = settings.test_share
        self.chosen = split_texts(table, settings.texts, share, settings.held_out)
        train = split_texts(table, "train", share, settings.held_out)
        loss = np.asarray(table.loss, dtype=np.float64)
        self.quality = loss[:, :1] - loss
        every = np.arange(structures)
        self.kept = table.flops_kept(every)
        flops = np.asarray(table.flops)
        self.probe_cost = table.prefix_tokens * flops / flops[0] / table.tokens
        self.token_mib = np.asarray(table.kv_bytes) / MIB
        raw = raw_columns(np.asarray(table.features), np.asarray(table.distance))
        if settings.signals and table.signals is not None:
            raw = np.concatenate([raw, np.asarray(table.signals, dtype=np.float64).reshape(len(raw), -1)], 1)
        self.center, self.scale = raw[train].mean(0), np.maximum(raw[train].std(0), 1e-6)
        self.prefix = scaled(raw, self.center, self.scale)
        self.distance = relative_distance(table, np.asarray(table.distance))
        probe = np.asarray(table.probe, dtype=np.float64)
        self.probe_rise = np.clip(probe - probe[:, :1], *STRUCTURE_COLUMNS["probe_rise"]).astype(np.float32)
        cost = self.kept if settings.budget == "flops" else self.token_mib / self.token_mib[0]
        self.static = np.zeros((structures, len(STRUCTURE_COLUMNS)), dtype=np.float32)
        for name, values in (
            ("share", np.asarray(table.shares)),
            ("log_cost_kept", np.log(np.maximum(cost, 1e-6))),
            ("mean_rise", 0.0 - self.quality[train].mean(0)),
        ):
            self.static[:, _COLUMN[name]] = np.clip(values, *STRUCTURE_COLUMNS[name])

    def cost(self, structures: np.ndarray, probed: np.ndarray, batch: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """(n,) what a nat of the price buys: log FLOPs kept, or MiB of KV cache beside the dense model's.

        Args:
            structures: (n,) under which the texts after the prefix run.
            probed: (n,) FLOPs of their probes over those of a whole text of the dense model.
            batch, tokens: (n,) of the requests.
        """
        if self.settings.budget == "flops":
            return np.log(self.kept[structures] + probed)
        return batch * tokens * (self.token_mib[structures] - self.token_mib[0])


def raw_columns(features: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """(n, p) float64 of features and distances side by side."""
    return np.concatenate([features, distance], 1).astype(np.float64)


def scaled(raw: np.ndarray, center: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(n, p) float32 columns of the prefix: z-scores, clipped."""
    return np.clip((raw - center) / scale, -Z_BOUND, Z_BOUND).astype(np.float32)


def relative_distance(table: RouteTable, distance: np.ndarray) -> np.ndarray:
    """(n, K) float32 log distance of prefixes to the texts of each structure, over that to the nearest kind's; 0 for no kind."""
    found = np.zeros((len(distance), len(table.structures)), dtype=np.float32)
    if distance.shape[1]:
        own = np.log(np.maximum(distance, 1e-6))
        own -= own.min(1, keepdims=True)
        for structure, kind in enumerate(fitted_kinds(table)):
            if kind >= 0:
                found[:, structure] = np.clip(own[:, kind], *STRUCTURE_COLUMNS["distance"])
    return found


def fitted_kinds(table: RouteTable) -> list[int]:
    """Column of `RouteTable.distance` that belongs to each structure's texts; -1 for the dense structure and for mixtures.

    Raises:
        InputError: The table has distances to other kinds than its structures were fitted on.
    """
    from plasticity_env.dynamic.fitting import MIXTURE

    kinds = [label for label in dict.fromkeys(table.labels) if label not in ("", MIXTURE)]
    if table.distance.shape[1] not in (0, len(kinds)):
        raise InputError(
            f"the route table has distances to {table.distance.shape[1]} kinds of text and structures of {len(kinds)} "
            f"({', '.join(kinds)}): fit the bank with build_bank, which keeps the prefixes of all"
        )
    return [kinds.index(label) if label in kinds else -1 for label in table.labels]

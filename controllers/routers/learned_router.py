"""LearnedRouter: a trained network as a router, on tables and inside a `RoutedModel`, and its file format."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from plasticity_env.common.digests import checked_folder, write_manifest
from plasticity_env.common.errors import InputError, first_line
from plasticity_env.common.files import new_folder, write_text
from plasticity_env.common.shipped_folders import folder_or_shipped
from plasticity_env.common.values import check_number, user_path
from plasticity_env.controllers.routers.route_player import Played, RoutePlayer, no_probes
from plasticity_env.controllers.routers.router_network import RouterConfig, RouterNetwork
from plasticity_env.dynamic.bank import StructureBank
from plasticity_env.dynamic.embedded_bank import BANKS
from plasticity_env.dynamic.nearest import TextDistances
from plasticity_env.dynamic.prefix import PrefixView
from plasticity_env.dynamic.route_table import RouteTable
from plasticity_env.envs.route_board import raw_columns, scaled

WEIGHTS, DESCRIPTION = "router.safetensors", "router.json"
FORMAT = 1


class LearnedRouter(RoutePlayer):
    """Picks the structure of the best predicted potential at a price.

    >>> router = LearnedRouter.load("ROUTER", price=1.0, bank=bank)
    >>> routed = RoutedModel(bank, router)

    Args:
        network: Trained in ``plasticity/Route-v0``.
        center, scale: (p,) what the columns of the prefix are centred on and divided by (`RouteBoard` has them).
        structures: Names of the K structures that it knows.
        price: Price of a nat of log FLOPs.
        bank: The bank that it picks from, for `pick`.
        info: How it was trained, JSON-able.

    Raises:
        InputError: A price that is not positive, or a bank of other structures.
    """

    name = "learned"
    prefix_structure = 0  # route tables hold what dense prefixes tell

    def __init__(
        self,
        network: RouterNetwork,
        center: np.ndarray,
        scale: np.ndarray,
        structures: tuple[str, ...],
        price: float = 1.0,
        bank: StructureBank | None = None,
        info: dict[str, Any] | None = None,
    ) -> None:
        self.network, self.center, self.scale = network.eval(), center, scale
        self.structures, self.info = tuple(structures), dict(info or {})
        self.price = check_number("price", price, 0, above=True)
        self.level = f"price {self.price:g}"
        self._bank = bank
        if bank is not None:
            self.check_structures(bank.names, "bank")
            self._distances = TextDistances(bank)

    def at(self, price: float) -> LearnedRouter:
        """The same network at another price."""
        return LearnedRouter(self.network, self.center, self.scale, self.structures, price, self._bank, self.info)

    def play(self, table: RouteTable, texts: np.ndarray) -> Played:
        self.check_structures(table.structures, "route table")
        return no_probes(self._best(np.asarray(table.features)[texts], np.asarray(table.distance)[texts]))

    def pick(self, view: PrefixView) -> Tensor:
        """(B,) numbers of structures for B texts, from what their first tokens tell.

        Raises:
            InputError: The router was given no bank, whose texts prefixes are compared with.
        """
        if self._bank is None:
            raise InputError("a learned router inside a model needs its bank: LearnedRouter.load(folder, bank=bank)")
        return torch.from_numpy(self._best(view.features.numpy(), self._distances.to(view).numpy()))

    @torch.no_grad()
    def _best(self, features: np.ndarray, distance: np.ndarray) -> np.ndarray:
        if features.shape[1] + distance.shape[1] != len(self.center):
            raise InputError(
                f"the router reads {len(self.center)} columns of a prefix, these texts have {features.shape[1]} features "
                f"and {distance.shape[1]} distances: use the bank that it was trained for"
            )
        prefix = torch.from_numpy(scaled(raw_columns(features, distance), self.center, self.scale))
        log_price = torch.full((len(prefix),), math.log(self.price))
        best: np.ndarray = self.network.scores(prefix, log_price).argmax(1).numpy()
        return best

    def check_structures(self, names: Sequence[str], of: str) -> None:
        """Raise unless these are the structures that the router was trained for.

        Args:
            names: Names of structures.
            of: What has them, for the error.

        Raises:
            InputError: Other structures, or another order.
        """
        if tuple(names) != self.structures:
            raise InputError(
                f"the router was trained for the structures {', '.join(self.structures)}, this {of} has {', '.join(names)}: "
                "use the bank that it was trained for"
            )

    # -- files ---------------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write ``router.safetensors``, ``router.json`` and digests as one folder.

        Raises:
            InputError: Something else lies there, or weights that are not finite.
        """
        path = user_path(folder, "a router")
        self._check_weights()
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.network.state_dict().items()}
        tensors |= {"center": torch.from_numpy(self.center), "scale": torch.from_numpy(self.scale)}
        description = {
            "format": FORMAT,
            "network": vars(self.network.config),
            "structures": list(self.structures),
            "price": self.price,
            "info": self.info,
        }
        with new_folder(path, replace=(path / DESCRIPTION).is_file()) as temporary:
            save_file(tensors, temporary / WEIGHTS)
            write_text(temporary / DESCRIPTION, json.dumps(description, indent=1) + "\n")
            write_manifest(temporary, DESCRIPTION, WEIGHTS)

    @classmethod
    def load(cls, folder: str | Path, price: float | None = None, bank: StructureBank | None = None) -> LearnedRouter:
        """Read what `save` wrote.

        Args:
            folder: Folder of the router, or the name of an embedded model that has one.
            price: Price at which it picks; None takes the one that it was saved with.
            bank: The bank that it picks from inside a `RoutedModel`.

        Raises:
            InputError: No router there, a damaged one, or one for another bank.
        """
        shipped = {path.parent.name: path for path in BANKS.glob("*/router")}
        path = folder_or_shipped(folder, "a router", shipped)
        if not (path / DESCRIPTION).is_file():
            raise InputError(f"no router at {str(path)!r} (no {DESCRIPTION}): train one with plasticity train-router")
        try:
            with checked_folder(path):
                said = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
                if said["format"] != FORMAT:
                    raise InputError(f"it has router format {said['format']!r}, known is {FORMAT}")
                tensors = load_file(path / WEIGHTS)
                center, scale = (tensors.pop(name).numpy() for name in ("center", "scale"))
                network = RouterNetwork(
                    RouterConfig.from_json(said["network"]), tensors["mean_rise"], tensors["log_cost"]
                )
                network.load_state_dict(tensors)
                names, own = tuple(map(str, said["structures"])), float(said["price"])
                shapes = (center.shape, scale.shape, len(names), len(network.mean_rise))
                config = network.config
                if shapes != ((config.inputs,), (config.inputs,), config.structures, config.structures):
                    raise InputError("its parts do not fit each other")
                found = cls(network, center, scale, names, own if price is None else price, bank, said.get("info"))
                found._check_weights()
        except InputError as error:
            raise InputError(f"{str(path)!r}: {error}") from error
        except (OSError, KeyError, TypeError, ValueError, AttributeError, RuntimeError, SafetensorError) as error:
            raise InputError(f"the router at {str(path)!r} is damaged ({first_line(error)})") from error
        return found

    def _check_weights(self) -> None:
        values = [*self.network.state_dict().values(), torch.from_numpy(self.center), torch.from_numpy(self.scale)]
        if not all(bool(torch.isfinite(value).all()) for value in values) or not (self.scale > 0).all():
            raise InputError("the router's weights are not finite, or its scales not positive: train it anew")

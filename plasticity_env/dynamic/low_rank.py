"""Low-rank rows beside projections while they are trained (Hu et al., 2021: LoRA); afterwards they are merged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from plasticity_env.common.errors import InputError
from plasticity_env.dynamic.domain import Domain, projections_by_weight
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.model.projections import in_features, out_features


def new_rows(model: PlasticModel, rank: int, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Rows for every projection of attention and MLPs; their product is 0 until they are trained.

    Args:
        model: The model.
        rank: Width r of the rows.
        seed: Fixes the (inputs, r) halves, which are normal; the (r, outputs) halves are 0.

    Raises:
        InputError: A rank above what a projection has.
    """
    generator, rows = torch.Generator().manual_seed(seed), {}
    for name, projection in projections_by_weight(model).items():
        inputs, outputs = in_features(projection), out_features(projection)
        if rank > min(inputs, outputs):
            raise InputError(f"rank {rank} is above {min(inputs, outputs)}, all that {name} has: name a lower one")
        down = torch.randn(inputs, rank, generator=generator) / inputs**0.5
        rows[name] = down.to(model.device, model.dtype), torch.zeros(rank, outputs).to(model.device, model.dtype)
    return rows


def rank_of_size(model: PlasticModel, numbers: int) -> int:
    """The rank, at least 1, at which rows for every projection hold about so many numbers."""
    sides = sum(in_features(part) + out_features(part) for part in projections_by_weight(model).values())
    return max(1, round(numbers / sides))


class LowRankRows(nn.Module):
    """Trainable copies of a domain's rows.

    Args:
        rows: (inputs, r) and (r, outputs) by the name of the weight beside which they stand.
    """

    def __init__(self, rows: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self._names = list(rows)
        self.down = nn.ParameterList([down.clone() for down, _ in rows.values()])
        self.up = nn.ParameterList([up.clone() for _, up in rows.values()])

    def values(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Copies of the present rows, by name."""
        pairs = zip(self._names, self.down, self.up, strict=True)
        return {name: (down.detach().clone(), up.detach().clone()) for name, down, up in pairs}

    @contextmanager
    def beside(self, model: PlasticModel, domain: Domain) -> Iterator[None]:
        """Add what the rows say to the projections' outputs; they are parameters of the wrapper meanwhile.

        Under a repair, a pruned input is what the kept ones say of it, for these rows as for the weights.
        """
        projections, sites = projections_by_weight(model), {id(site.output): site for site in model.sites}

        def hook_of(number: int, module: nn.Module) -> Any:
            site = sites.get(id(module))
            mix = None if site is None else domain.structure.mixes.get(site.index)
            kept = None if site is None or mix is None else site.kept_inputs(domain.structure.active).to(model.device)

            def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
                down = self.down[number]
                if mix is not None and kept is not None:
                    inputs = args[0][..., kept]
                    down = down[kept] + mix.to(down) @ down[~kept]
                else:
                    inputs = args[0]
                return output + (inputs @ down) @ self.up[number]

            return hook

        hooks = [
            projections[name].register_forward_hook(hook_of(i, projections[name])) for i, name in enumerate(self._names)
        ]
        model.add_module("low_rank_rows", self)
        try:
            yield
        finally:
            del model.low_rank_rows
            for hook in hooks:
                hook.remove()

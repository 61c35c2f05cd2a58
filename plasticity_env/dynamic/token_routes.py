"""Which structure each token of a forward runs under, and the hooks that make it so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from plasticity_env.dynamic.structure import Structure
from plasticity_env.model.layouts import Site
from plasticity_env.model.plastic_model import PlasticModel

RouteOf = Callable[[Tensor], Tensor]  # (B, T) positions of tokens in their texts -> (B, T) numbers of structures


class TokenRoutes:
    """Runs the tokens of one forward under the structures that their places in the texts call for.

    What a site reads is changed just before its projection: pruned inputs become what the kept ones say of them. Weights stay
    as they are, so that tokens of several structures lie side by side in a batch, and changing structures costs nothing.

    Args:
        model: The dense model.
        structures: Structures by number; those that prune nothing leave their tokens as they are.
    """

    def __init__(self, model: PlasticModel, structures: Sequence[Structure]) -> None:
        self._model, self._structures = model, structures
        self._kept: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # of structure and site: kept and pruned inputs
        self._lots: list[tuple[int, Tensor | None]] = []  # structures and the rows of (B * T) under them; None: all

    @contextmanager
    def along(self, route_of: RouteOf) -> Iterator[None]:
        """Route the forwards inside.

        Args:
            route_of: Says under which structure a token at a place of its text runs; asked before each forward.
        """

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._lots = self._sorted(route_of(token_positions(args, kwargs)))

        hooks = [self._model.model.register_forward_pre_hook(before, with_kwargs=True)]
        hooks += [site.output.register_forward_pre_hook(self._at(site)) for site in self._model.sites if site.gated]
        try:
            yield
        finally:
            self._lots = []
            for hook in hooks:
                hook.remove()

    def _sorted(self, routes: Tensor) -> list[tuple[int, Tensor | None]]:
        flat = routes.flatten()
        present = [number for number in flat.unique().tolist() if not self._structures[number].is_dense]
        if len(present) == 1 and bool((flat == present[0]).all()):
            return [(present[0], None)]
        return [(number, (flat == number).nonzero().flatten().to(self._model.device)) for number in present]

    def _at(self, site: Site) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...] | None]:
        def change(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            (inputs,) = args
            flat = inputs.reshape(-1, inputs.shape[-1])  # (B * T, I), in OPT's MLP as it comes
            out = flat
            for number, rows in self._lots:
                kept, gone = self._inputs(number, site)
                if not len(gone):
                    continue
                mine = flat if rows is None else flat[rows]
                mix = self._structures[number].mixes.get(site.index)
                filled = mine.index_copy(1, gone, mine[:, kept] @ mix if mix is not None else mine[:, gone] * 0)
                out = filled if rows is None else out.index_copy(0, rows, filled)
            return None if out is flat else (out.view(inputs.shape),)

        return change

    def _inputs(self, number: int, site: Site) -> tuple[Tensor, Tensor]:
        key = number, site.index
        if key not in self._kept:
            kept = site.kept_inputs(self._structures[number].active)
            self._kept[key] = tuple(rows.nonzero().flatten().to(self._model.device) for rows in (kept, ~kept))  # type: ignore[assignment]
        return self._kept[key]


def token_positions(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """(B, T) places of a forward's tokens in their texts, from what the model is called with; padding stands at 0 or before."""
    ids = args[0] if args else kwargs.get("input_ids")
    if ids is None:
        ids = kwargs["inputs_embeds"][..., 0]
    batch, tokens = ids.shape
    given, mask = kwargs.get("position_ids"), kwargs.get("attention_mask")
    if given is not None:
        return given.expand(batch, tokens)  # type: ignore[no-any-return]
    if isinstance(mask, Tensor) and mask.ndim == 2:
        return (mask.long().cumsum(1) - 1)[:, -tokens:]
    past = kwargs.get("past_key_values")
    start = 0 if past is None else int(past.get_seq_length())
    return torch.arange(start, start + tokens, device=ids.device).expand(batch, tokens)

"""What a repair did to a model's projections, and the exact way back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from plasticity_env.common.errors import InputError
from plasticity_env.common.serials import next_serial
from plasticity_env.model.layouts import Site


@dataclass(frozen=True)
class OutputRepair:
    """A repaired output projection and the way back.

    Attributes:
        base: (inputs, E) the projection before repair.
        weight: (inputs, E) the repaired projection, or None for a repair of the bias alone.
        bias: (E,) what repair added to the bias, or None.
        base_bias: (E,) the bias before repair, or None where the projection has none.
        version: Weight version for which ``base`` was taken.
        serial: A number of its own: no two repairs share it.
    """

    base: Tensor
    weight: Tensor | None
    bias: Tensor | None
    base_bias: Tensor | None
    version: int
    serial: int = field(init=False, default_factory=next_serial)


class AppliedRepairs:
    """The repairs that a model carries, by site.

    Args:
        sites: The model's projections that a repair may change, in execution order.
    """

    def __init__(self, sites: list[Site]) -> None:
        self._sites = sites
        self.by_site: dict[int, OutputRepair] = {}

    def added_biases(self) -> set[int]:
        """Ids of the biases of projections that had none before their repair."""
        added = (i for i, repair in self.by_site.items() if repair.bias is not None and repair.base_bias is None)
        return {id(self._sites[index].output.bias) for index in added}

    def apply(self, index: int, weight: Tensor | None, bias: Tensor | None, version: int) -> None:
        """Replace a site's projection; see `PlasticModel.apply_repair`."""
        output, view = self._sites[index].output, self._sites[index].output_weight()
        for name, given, shape in (("weight", weight, tuple(view.shape)), ("bias", bias, (view.shape[1],))):
            if given is not None and tuple(given.shape) != shape:
                raise InputError(
                    f"the {name} of a repair of site {index} must have shape {shape}, got {tuple(given.shape)}"
                )
        self.undo([index], version)
        base, base_bias = view.clone(), None
        if weight is not None:
            weight = weight.to(view.dtype).clone()
            view.copy_(weight)
        if bias is not None:
            bias = bias.to(view.dtype)
            if output.bias is None:
                output.bias = nn.Parameter(bias.clone(), requires_grad=False)
            else:
                base_bias = output.bias.data.clone()  # type: ignore[union-attr, operator]
                output.bias.data.add_(bias)  # type: ignore[union-attr, operator]
        self.by_site[index] = OutputRepair(base, weight, bias, base_bias, version)

    def undo(self, indices: Iterable[int], version: int) -> None:
        """Take repairs back: exactly where nothing trained since, else by subtracting what repair added."""
        for index in indices:
            repair = self.by_site.pop(index, None)
            if repair is None:
                continue
            output, view = self._sites[index].output, self._sites[index].output_weight()
            untouched = repair.version == version
            if repair.weight is not None:
                view.copy_(repair.base if untouched else view - (repair.weight - repair.base))
            if repair.bias is not None and repair.base_bias is None:
                output.bias = None  # type: ignore[assignment]
            elif repair.bias is not None:
                bias = output.bias.data  # type: ignore[union-attr]
                bias.copy_(repair.base_bias if untouched else bias - repair.bias)  # type: ignore[operator, arg-type]

    def redo(self, repairs: dict[int, OutputRepair], version: int) -> None:
        """Apply repairs of a snapshot again, on top of what training changed since."""
        for index, repair in repairs.items():
            weight = repair.weight
            if weight is not None and repair.version != version:
                weight = self._sites[index].output_weight() + (weight - repair.base)
            self.apply(index, weight, repair.bias, version)

    @contextmanager
    def lifted(self, version: int) -> Iterator[None]:
        """No repairs for a moment; afterwards the very same ones, to the bit."""
        put_back = self._way_back()
        self.undo(list(self.by_site), version)
        try:
            yield
        finally:
            put_back()

    @contextmanager
    def kept_on_failure(self, version: int) -> Iterator[None]:
        """An edit that may take repairs back, or make others: where it fails, the repairs are those of before, to the bit."""
        before, put_back = set(self.by_site), self._way_back()
        try:
            yield
        except BaseException:
            self.undo([index for index in self.by_site if index not in before], version)
            put_back()
            raise

    def _way_back(self) -> Callable[[], None]:
        """What brings back the repairs that are carried now, to the bit."""
        carried, kept = dict(self.by_site), {}
        for index in carried:
            bias = self._sites[index].output.bias
            values = None if bias is None else bias.data.clone()  # type: ignore[union-attr, operator]
            kept[index] = self._sites[index].output_weight().clone(), bias, values

        def put_back() -> None:
            for index, (weight, bias, values) in kept.items():
                self._sites[index].output_weight().copy_(weight)
                self._sites[index].output.bias = bias
                if values is not None:
                    bias.data.copy_(values)  # type: ignore[union-attr, operator]
            self.by_site = carried

        return put_back

    def make_room(self, repairs: dict[int, OutputRepair]) -> None:
        """Give projections without a bias the one that a snapshot's repair gave them, before weights are loaded."""
        for index, repair in repairs.items():
            if repair.bias is not None and repair.base_bias is None:
                self._sites[index].output.bias = nn.Parameter(repair.bias.clone(), requires_grad=False)

    def move(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Move or convert everything, as ``nn.Module._apply`` does with parameters."""
        for index, repair in self.by_site.items():
            names = ("base", "weight", "bias", "base_bias")
            moved = {name: fn(getattr(repair, name)) for name in names if getattr(repair, name) is not None}
            self.by_site[index] = replace(repair, **moved)  # type: ignore[arg-type]

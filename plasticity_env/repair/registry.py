"""Repairs by name: which method, and whether layer after layer."""

from __future__ import annotations

from dataclasses import dataclass

from plasticity_env.common.registries import Registered, Registry, by_name
from plasticity_env.repair.methods import Method


@dataclass(frozen=True)
class Repair(Registered):
    """A named way to repair.

    Attributes:
        name: Name, as the environment's ``repair`` argument takes it.
        method: Name in `METHODS`, a function like these, or None for no repair.
        sequential: Layers in order, on statistics of the already pruned stream; else all at once on the dense stream.
        mlp: Also refit the MLPs' output projections, pruned or not (sequential only).
        weighted: A token's error counts relative to the stream that it is added to, not as it is (sequential only).
    """

    name: str
    method: str | Method | None
    sequential: bool = False
    mlp: bool = False
    weighted: bool = True

    @classmethod
    def registry(cls) -> Registry[Repair]:
        """The registry of repairs."""
        return REPAIRS


REPAIRS: Registry[Repair] = Registry(
    "repair",
    by_name(
        (
            Repair("none", None),
            Repair("bias", "bias"),
            Repair("scale", "scale"),
            Repair("least_squares", "least_squares"),
            Repair("sequential", "least_squares", sequential=True),
            Repair("sequential_mlp", "least_squares", sequential=True, mlp=True),
            Repair("sequential_unweighted", "least_squares", sequential=True, weighted=False),  # controls, these two
            Repair("sequential_mlp_unweighted", "least_squares", sequential=True, mlp=True, weighted=False),
        )
    ),
)
find_repair = REPAIRS.find


def register_repair(repair: Repair) -> None:
    """Add a way to repair under its name.

    Raises:
        InputError: The name is that of a repair that comes with the package.
    """
    REPAIRS.add(repair.name, repair)

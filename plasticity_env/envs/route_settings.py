"""Arguments of plasticity/Route-v0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from plasticity_env.common.arguments import check_counts, given, plain
from plasticity_env.common.errors import InputError, UnexpectedArgumentError, unknown
from plasticity_env.common.values import check_number, plain_value
from plasticity_env.envs.settings import OBSERVATIONS, bounds, check_range

BUDGETS = ("flops", "kv_cache")
TEXTS = ("train", "test", "all")
RANGES = {
    "flop_price": 1e6,
    "kv_price": 1e6,
    "batch": 1e6,
    "tokens": 1e7,
}  # what is drawn at reset, and its largest value


@dataclass(frozen=True)
class RouteSettings:
    """All arguments of ``plasticity/Route-v0`` beside its table; JSON-able.

    Attributes:
        observation: dict (prefix, structures, request), or flat: one vector of the same numbers in this order.
        budget: What is paid for: flops, or kv_cache for the bytes of a request's KV cache.
        flop_price: Price of a nat of log FLOPs: a number, or a range sampled log-uniformly at reset.
        kv_price: The same of a MiB of KV cache, with budget="kv_cache".
        batch: Sequences of a request, with budget="kv_cache": a number, or a range sampled log-uniformly at reset.
        tokens: Tokens of each of them, likewise.
        signals: Whether the prefix also tells attention entropy, activation and fluctuation of every unit; for tables that
            were measured with ``signals=True``, whose reading costs more.
        probes: Most structures that an agent may try on the prefix before it chooses; 0 leaves the actions for it out.
        texts: Texts that episodes are about: train, test or all.
        test_share: Share of each kind's texts, the last ones, that are test texts.
        held_out: Name of a kind of text that no train text is of; empty for none.
    """

    observation: str = "dict"
    budget: str = "flops"
    flop_price: float | tuple[float, float] = (0.1, 4.0)
    kv_price: float | tuple[float, float] = (0.005, 0.1)
    batch: float | tuple[float, float] = (1.0, 32.0)
    tokens: float | tuple[float, float] = (128.0, 1024.0)
    signals: bool = False
    probes: int = 0
    texts: str = "train"
    test_share: float = 0.25
    held_out: str = ""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            object.__setattr__(self, name, plain_value(getattr(self, name)))
        for name, allowed in (("observation", OBSERVATIONS), ("budget", BUDGETS), ("texts", TEXTS)):
            if getattr(self, name) not in allowed:
                raise unknown(name, getattr(self, name), allowed)
        for name, most in RANGES.items():
            check_range(name, getattr(self, name), 0.0, most)
        for name in ("batch", "tokens"):
            low, high = bounds(getattr(self, name))
            if low < 1 or not low.is_integer() or not high.is_integer():
                raise InputError(
                    f"{name} must be a whole number of at least 1, or a range of two, got {low:g} to {high:g}"
                )
        check_counts(self, probes=0)
        if not isinstance(self.signals, bool):
            raise InputError(f"signals must be True or False, got {self.signals!r}")
        check_number("test_share", self.test_share, 0, 1, above=True, below=True)
        if not isinstance(self.held_out, str):
            raise InputError(f"held_out must be the name of a kind of text, got {self.held_out!r}")
        if self.budget == "kv_cache" and self.probes:
            raise InputError("a probe leaves no KV cache behind and would be free: use probes=0, or budget='flops'")
        other = ("kv_price", "batch", "tokens") if self.budget == "flops" else ("flop_price",)
        for name in other:
            if given(self, name):
                way = "kv_cache" if self.budget == "flops" else "flops"
                raise InputError(f"{name} counts with budget={way!r}, this is budget={self.budget!r}: leave it out")

    @classmethod
    def read(cls, values: dict[str, Any]) -> RouteSettings:
        """Make settings of keyword arguments.

        Raises:
            InputError: A name or value that is not known.
        """
        names = sorted(set(values) - set(cls.__dataclass_fields__))
        if names:
            raise UnexpectedArgumentError(
                f"unexpected keyword argument {names[0]!r}: known are table, {', '.join(cls.__dataclass_fields__)}"
            )
        return cls(**values)

    @property
    def price_name(self) -> str:
        """The argument that says the price."""
        return "flop_price" if self.budget == "flops" else "kv_price"

    @property
    def drawn(self) -> tuple[str, ...]:
        """What is drawn at reset beside the text; each may be given as an option of the reset."""
        return (self.price_name,) if self.budget == "flops" else (self.price_name, "batch", "tokens")

    def kwargs(self) -> dict[str, Any]:
        """The arguments as JSON-able keyword arguments."""
        hidden = {"kv_price", "batch", "tokens"} if self.budget == "flops" else {"flop_price"}
        return {name: value for name, value in plain(self).items() if name not in hidden}

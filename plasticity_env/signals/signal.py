"""What is measured of every unit: one record a signal, and the registry of all of them.

A signal of your own is one record, registered in one line, from outside the package too:

>>> from plasticity_env import Signal, register_signal
>>> register_signal(Signal("saliency", lambda seen: (seen["gate_gradient"] * seen["activation"]).abs()))
>>> gym.make("plasticity/Heads-v1", signals=("saliency",))  # adds saliency, saliency_z and saliency_rank

The environments measure it where it is asked for by name, and show it behind their own columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.common.registries import Registered, Registry, by_name
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.signals.moment_sums import SiteSums
from plasticity_env.signals.recorder import SignalRecorder
from plasticity_env.signals.slopes import KINDS, SCORES

# what switches signals on -> how `measure` is asked for it; the environment's setting is f"{what}_signal"
SWITCHES = {"obs": "obs=True", "residual": "projectors", "crossfit": "crossfit projectors"}


@dataclass(frozen=True)
class Gathered:
    """What one measuring pass of n versions of a model gathered; signals are computed from it.

    ``gathered["fisher"]`` is another signal of the same pass, (n, L, U), computed once.

    Attributes:
        model: Model whose weights are shared by all versions.
        gates: (n, L, U) gates of each version.
        loss: (n, B) nats per token of each sequence.
        gradient: (n, B, L, U) dL/dgate of each sequence, float32 on the CPU.
        weights: Output projections by site, (n or 1, I, E) each.
        recorder: Sums over the pass: attention entropy, second moments, slopes along residuals.
    """

    model: PlasticModel
    gates: Tensor
    loss: Tensor
    gradient: Tensor
    weights: Mapping[int, Tensor]
    recorder: SignalRecorder

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._computed:
            values = SIGNALS.find(name).compute(self)
            expected = self.gates.shape
            if not isinstance(values, Tensor) or values.shape != expected:
                found = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
                raise InputError(f"signal {name!r} must be a tensor (versions, L, U) {tuple(expected)}, got {found}")
            self._computed[name] = values.float().cpu()
        return self._computed[name]

    @cached_property
    def _computed(self) -> dict[str, Tensor]:
        return {}

    @cached_property
    def slopes(self) -> dict[str, Tensor]:
        """(n, L, U) by ``{kind}_{score}``: see `plasticity_env.signals.slopes`."""
        return self.recorder.slopes.scores(self.recorder.tokens)

    def per_site(self, score: Callable[[SiteSums, Tensor, list[Tensor]], Tensor]) -> Tensor:
        """(n, L, U) of a score that reads the sums of one kind of site, the gates of its units and its projections."""
        return self.recorder.units(score, self.gates, self.weights)


Compute = Callable[[Gathered], Tensor]


@dataclass(frozen=True)
class Signal(Registered):
    """One measured signal; its columns, ranks and z-scores in an observation follow from this record.

    Attributes:
        name: Name of the signal, and of its raw column.
        compute: (n, L, U) of n versions of a model, from what a pass gathered.
        scale: How its z-score reads it: "log" the log of its positive values, "plain" the values, "signed" the values in units
            of their root mean square, so that 0 stays 0.
        per_flop: Whether it is also shown as a z-score of its log per FLOP that the unit costs, over units of all kinds.
        needs: What switches it on: "" nothing, "obs" the whole second moments, "residual" or "crossfit" the projectors of
            residuals.
        heads_only: Whether MLP blocks have no such thing; they read 0 and count nowhere.
        bounds: Smallest and largest value of the raw column.
        stem: What its derived columns are called after; its name where empty.
    """

    name: str
    compute: Compute
    scale: Literal["log", "plain", "signed"] = "log"
    per_flop: bool = False
    needs: str = ""
    heads_only: bool = False
    bounds: tuple[float, float] = (0.0, 1e9)
    stem: str = ""

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise InputError(f"a signal's name must be an identifier, got {self.name!r}")
        if self.needs and self.needs not in SWITCHES:
            raise InputError(f"a signal needs '' or one of {', '.join(SWITCHES)}, got {self.needs!r}")
        if not self.bounds[0] < self.bounds[1]:
            raise InputError(f"bounds of signal {self.name!r} must be (low, high) with low < high, got {self.bounds!r}")

    @classmethod
    def registry(cls) -> Registry[Signal]:
        """The registry of signals."""
        return SIGNALS

    @property
    def setting(self) -> str:
        """The environment's setting that switches it on; empty where nothing has to."""
        return f"{self.needs}_signal" if self.needs else ""


def _slope(name: str) -> Compute:
    return lambda seen: seen.slopes[name]


_PER_FLOP = (
    *("residual_fisher", "crossfit_token_fisher", "crossfit_kfac"),
    *("residual_stepwise", "crossfit_stepwise"),
)
STANDARD = (  # what every pass measures, as far as what it needs is switched on
    # attention entropy in nats, mean over queries that see at least two keys; then divided by the log of the visible length
    Signal(
        "entropy", lambda seen: seen.recorder.entropy(), "plain", heads_only=True, bounds=(0, 32), stem="entropy_nats"
    ),
    Signal(
        "entropy_normalized",
        lambda seen: seen.recorder.entropy_normalized(),
        "plain",
        heads_only=True,
        bounds=(0, 1),
        stem="entropy",
    ),
    # mean over sequences of dL/dgate, signed, nats; of its absolute value (Michel); of its square
    Signal("gate_gradient", lambda seen: seen.gradient.mean(1), "signed", bounds=(-1e9, 1e9)),
    Signal("gradient", lambda seen: seen.gradient.abs().mean(1), per_flop=True),
    Signal("fisher", lambda seen: seen.gradient.square().mean(1)),
    # Frobenius norm of the unit's output rows; root mean square over tokens of what it writes; see `SiteSums` for all four
    Signal("magnitude", lambda seen: seen.per_site(lambda sums, gates, weights: sums.magnitude(weights))),
    Signal(
        "activation",
        lambda seen: seen.per_site(lambda sums, gates, weights: sums.activation(seen.recorder.tokens, weights)),
    ),
    Signal(
        "fluctuation",
        lambda seen: seen.per_site(lambda sums, gates, weights: sums.fluctuation(seen.recorder.tokens, weights)),
    ),
    Signal(
        "obs",
        lambda seen: seen.per_site(lambda sums, gates, weights: sums.obs(gates, seen.recorder.tokens, weights)),
        needs="obs",
    ),
    # slopes along what the other kept units cannot predict of the unit, in-sample and cross-fitted; 0 for a pruned unit
    *(
        Signal(name, _slope(name), per_flop=name in _PER_FLOP, needs=kind)
        for kind in KINDS
        for name in (f"{kind}_{score}" for score in SCORES)
    ),
    # first-order gain in nats of opening a pruned unit: -dL/dgate at gate 0; 0 for an active one
    Signal(
        "revive",
        lambda seen: torch.where(seen.gates.cpu() > 0, 0.0, -seen["gate_gradient"]),
        "signed",
        bounds=(-1e9, 1e9),
    ),
)
SIGNALS: Registry[Signal] = Registry("signal", by_name(STANDARD))


def register_signal(signal: Signal) -> None:
    """Add a signal under its name.

    Raises:
        InputError: The name is that of a signal that comes with the package.
    """
    SIGNALS.add(signal.name, signal)

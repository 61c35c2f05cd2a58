"""The environment's arguments, checked where they enter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from plasticity_env.common.arguments import check_counts, given, plain
from plasticity_env.common.errors import InputError, UnexpectedArgumentError, unknown
from plasticity_env.common.values import LARGEST_RATE, brief, check_number, check_text
from plasticity_env.data.text_settings import TextSettings
from plasticity_env.envs.rewards import find_reward
from plasticity_env.model.modes import PruningMode

UNITS = ("heads", "heads+mlp")
OBSERVATIONS = ("dict", "flat")
LABELS = ("data", "sampled")
# names of arguments that belong together: what text is read, what the units are, how they are measured
TEXT_ARGUMENTS = ("dataset", "dataset_config", "text_split", "max_length")
UNIT_ARGUMENTS = ("units", "mlp_blocks", "neuron_order")
MEASURING_ARGUMENTS = (
    *TEXT_ARGUMENTS,
    "repair",
    "calibration_blocks",
    "moment_blocks",
    "moment_cache",
    "labels",
    "batch_size",
    "device",
)
NAMES = (  # arguments that are a name, or a place
    *("model_name", "dataset", "mode", "reward", "repair", "growth_init"),
    *("neuron_order", "units", "observation", "labels", "device"),
)
# what ranges must lie above, and their largest value
LIMITS = {"flop_price": (0.0, 1e6), "flop_budget": (1e-3, 1.0), "pruned_share": (0.0, 0.99)}


@dataclass(frozen=True)
class Settings(TextSettings):
    """All arguments of the environments; JSON-able, so that a run can be written down and repeated.

    Which text is read is said in `plasticity_env.data.text_settings.TextSettings`, of which these settings are made.

    Attributes:
        model_name: An embedded name, a Hugging Face folder or hub name, or a GGUF file.
        mode: adaptive (pruned heads may be revived and grown) or compressed (pruning is permanent).
        reward: Name in the reward registry.
        flop_price: Price of a nat of log FLOPs: a number, or a range sampled log-uniformly at reset.
        flop_budget: Share of dense FLOPs to reach under the "budget" reward: a number, or a range sampled uniformly.
        pruned_share: HeadRank and Levels only: share of all heads (on Levels, and with units="heads+mlp": of the units' FLOPs)
            that is pruned when the horizon is over: a number, or a range sampled uniformly at reset.
        horizon: Decisions per episode.
        train_steps: Fine-tuning steps of the language model between decisions; 0 freezes it.
        learning_rate: Learning rate of those steps.
        train_streams: Fixed streams of training text, each with its control arm, that resets draw from.
        grow_warmup_steps: Fine-tuning steps until a grown head's gate is 1.
        growth_init: What a grown head starts from: random, copy, transfer, lemon or gradmax (see `plasticity_env.growth`).
        repair: How the remaining units make up for the pruned ones: none, bias, scale, least_squares, sequential or
            sequential_mlp; the controls of the last two end in _unweighted (see `plasticity_env.repair`).
        max_sparsity: Largest share of heads that may be pruned, in [0, 1].
        min_heads_per_layer: Fewest active heads of a layer.
        units: What can be pruned: heads, or heads+mlp for blocks of MLP neurons as well (shares are then of the units' FLOPs).
        mlp_blocks: Equal blocks into which each layer's neurons are cut, with units="heads+mlp".
        neuron_order: Order of a layer's neurons before they are cut, with units="heads+mlp": kfac or token_fisher (most
            important first; see `plasticity_env.strategies.neuron_order`), stored (as the model has them), or auto: kfac, but
            in version 0 of the environments and for a model whose neurons are in an order already.
        calibration_blocks: Blocks of text that score units, and repair where moment_blocks is 0, drawn at reset.
        moment_blocks: Blocks of text beside these that repairs and residuals are fitted on, which takes forwards only, drawn at
            reset. Scores are then prices on text that the fit did not read, and crossfit scores are the residual ones. 0 fits
            on the calibration blocks.
        reward_blocks: Blocks of text that rewards are measured on, drawn at reset.
        obs_signal: Measure the OBS score, which costs (H*D)^3 a layer and step.
        residual_signal: Measure the residual scores (`plasticity_env.signals.residual`), about the cost of least-squares repair.
        moment_cache: A folder that keeps what is gathered from the text that repairs are fitted on, for other processes, seeds
            and players, while the model is frozen: one file a text (SmolLM2-135M: 40 MB for its heads, 330 MB with MLP blocks).
        labels: Next tokens that slopes are taken of: data (the text's own) or sampled (drawn from the model itself: the
            true Fisher, which is the Hessian of the KL divergence to the model as it is). Losses are those of the text
            in any case.
        crossfit_signal: Measure the residual scores cross-fitted as well, two more matrices a site; needs ``residual_signal``.
        observation: dict (heads, globals and action mask, as controllers read them), or flat: one vector of the columns that
            networks learn from, unit by unit, then the global features, then the action mask (see
            `plasticity_env.envs.observation.Columns.flat`).
        signals: Names of registered signals to measure and show behind the columns of the id's version (see
            `plasticity_env.signals.signal`).
        prefix_mb: Most megabytes of hidden states from which a frozen model's reward (and test) forward may start, at the
            first layer that an edit changed; those of the eight batches read last are kept, 0 always runs whole forwards.
            The loss is the same. The vector environment does not use it.
        device: Device to run on: auto (CUDA where there is one), cpu, cuda, cuda:0, ...
    """

    model_name: str = "bard-gpt2-4x4"
    mode: str = "adaptive"
    reward: str = "ppl_per_flop"
    flop_price: float | tuple[float, float] = (1.0, 16.0)
    flop_budget: float | tuple[float, float] = (0.75, 0.95)
    pruned_share: float | tuple[float, float] | None = None
    horizon: int = 8
    train_steps: int = 0
    learning_rate: float = 3e-4
    train_streams: int = 4
    grow_warmup_steps: int = 20
    growth_init: str = "random"
    repair: str = "least_squares"
    max_sparsity: float = 0.9
    min_heads_per_layer: int = 0
    units: str = "heads"
    mlp_blocks: int = 8
    neuron_order: str = "auto"
    calibration_blocks: int = 16
    moment_blocks: int = 0
    moment_cache: str | None = None
    reward_blocks: int = 16
    obs_signal: bool = True
    residual_signal: bool = True
    crossfit_signal: bool = True
    labels: str = "data"
    observation: str = "dict"
    signals: tuple[str, ...] = ()
    prefix_mb: float = 256.0
    device: str = "cpu"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "device", str(self.device) if type(self.device).__module__ == "torch" else self.device)
        for name in NAMES:
            check_text(name, getattr(self, name))
        if self.moment_cache is not None:
            check_text("moment_cache", self.moment_cache)
        for name in ("obs_signal", "residual_signal", "crossfit_signal"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} must be True or False, got {brief(getattr(self, name))}")
        self._check_signals()
        PruningMode.parse(self.mode)
        find_reward(self.reward)
        self._check_names()
        for name, (above, most) in LIMITS.items():
            if name != "pruned_share" or self.pruned_share is not None:
                check_range(name, getattr(self, name), above, most)
        check_counts(self, horizon=1, train_steps=0, train_streams=1, grow_warmup_steps=0, min_heads_per_layer=0)
        check_counts(self, mlp_blocks=1, calibration_blocks=1, moment_blocks=0, reward_blocks=1)
        if self.labels not in LABELS:
            raise unknown("labels", self.labels, LABELS)
        if self.units not in UNITS:
            raise unknown("units", self.units, UNITS)
        if self.observation not in OBSERVATIONS:
            raise unknown("observation", self.observation, OBSERVATIONS)
        if self.neuron_order != "auto":
            check_order_fits(self.neuron_order, self.units)
        check_number("max_sparsity", self.max_sparsity, 0, 1)
        check_number("prefix_mb", self.prefix_mb, 0, 1e9)
        check_number("learning_rate", self.learning_rate, 0, LARGEST_RATE, above=True)
        if self.pruned_share is not None:
            self.check_share(self.pruned_share)

    def _check_names(self) -> None:
        """Refuse names that no registry has; the defaults have one, and their registries stay unread (they load torch)."""
        if given(self, "repair"):
            from plasticity_env.repair.registry import find_repair

            find_repair(self.repair)
        if given(self, "growth_init"):
            from plasticity_env.growth.initial_weights import find_initial_weights

            find_initial_weights(self.growth_init)
        if given(self, "neuron_order"):
            from plasticity_env.strategies.neuron_order import find_order

            find_order(self.order)

    def _check_signals(self) -> None:
        names = (self.signals,) if isinstance(self.signals, str) else self.signals
        if not isinstance(names, tuple):
            raise InputError(f"signals must be names of signals, got {brief(names)}")
        if names:
            from plasticity_env.signals.signal import SIGNALS
        for name in names:
            setting = SIGNALS.find(name).setting
            if setting and not getattr(self, setting):
                raise InputError(f"signal {name!r} needs {setting}=True")
        object.__setattr__(self, "signals", names)

    def check_share(self, share: float | Sequence[float]) -> None:
        """Refuse a target, already known to be a number or a range, that `max_sparsity` would never let a ranking reach.

        Raises:
            InputError: The limits forbid the target.
        """
        if self.units == "heads" and bounds(share)[1] > self.max_sparsity:
            raise InputError(
                f"pruned_share {share!r} is more than max_sparsity {self.max_sparsity!r} allows: ask for less, or raise it"
            )

    @classmethod
    def read(cls, values: dict[str, Any]) -> Settings:
        """Make settings of keyword arguments.

        Raises:
            InputError: A name or value that is not known.
        """
        unknown_names = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown_names:
            raise UnexpectedArgumentError(
                f"unexpected keyword argument {unknown_names[0]!r}: known are {', '.join(cls.__dataclass_fields__)}"
            )
        return cls(**values)

    @property
    def order(self) -> str:
        """Order of a layer's neurons: what ``neuron_order`` says, or what "auto" comes to."""
        if self.neuron_order != "auto":
            return self.neuron_order
        return "kfac" if self.units == "heads+mlp" else "stored"

    def settled(self, order: str) -> Settings:
        """The same, with the order that a model's neurons have come to in the place of "auto"."""
        if self.neuron_order != "auto":
            return self
        return replace(self, neuron_order=order if self.units == "heads+mlp" else "stored")

    @property
    def blocks_of_neurons(self) -> int:
        """MLP blocks per layer that are units: 0 with units="heads"."""
        return self.mlp_blocks if self.units == "heads+mlp" else 0

    def kwargs(self) -> dict[str, Any]:
        """The arguments as JSON-able keyword arguments; what is None or an empty list is left out."""
        return {name: value for name, value in plain(self).items() if value not in (None, [])}


def check_order_fits(neuron_order: str, units: str) -> None:
    """Refuse an order of neurons where no neurons are units.

    Raises:
        InputError: The order needs blocks of neurons as units.
    """
    if neuron_order != "stored" and units == "heads":
        raise InputError(f"neuron_order {neuron_order!r} orders MLP blocks: use it with units='heads+mlp'")


def settings_for(
    default_share: tuple[float, float] | None,
    values: dict[str, Any],
    version: int = 1,
    settings_type: type[Settings] = Settings,
) -> Settings:
    """Settings of an environment.

    Args:
        default_share: Target share unless one is given; None where the environment has no such target.
        values: Keyword arguments.
        version: Version of the id: 0 splits texts as it always did.
        settings_type: Class of the settings.

    Raises:
        InputError: A name or value that is not known, or a target for an environment that has none.
    """
    of_version = {"text_split": "leading", "neuron_order": "stored"} if version == 0 else {}
    settings = settings_type.read({"pruned_share": default_share, **of_version, **values})
    if default_share is None and settings.pruned_share is not None:
        raise InputError(
            "pruned_share is the target of plasticity/HeadRank-v1 and Levels-v0: this environment has none"
        )
    if default_share is not None and settings.pruned_share is None:
        raise InputError(
            "an environment with a target (HeadRank, Levels) needs pruned_share: a number, or a range to draw from"
        )
    return settings


def bounds(value: float | Sequence[float]) -> tuple[float, float]:
    """A number or a range as (low, high)."""
    if isinstance(value, bool):
        raise TypeError("a bool is not a number")
    if isinstance(value, int | float | np.number):
        return float(value), float(value)
    low, high = value
    return float(low), float(high)


def check_range(name: str, value: float | Sequence[float], low: float, high: float) -> None:
    """Refuse a number or range that is not above ``low`` and at most ``high``.

    Raises:
        InputError: The value lies outside.
    """
    try:
        first, last = bounds(value)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be a number or a range of two numbers, got {brief(value)}") from None
    if not (low < first <= last <= high):
        raise InputError(f"{name} must lie above {low:g}, at most {high:g}, smaller end first; got {brief(value)}")

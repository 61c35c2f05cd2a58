"""The arguments of an experiment, shared by scripts and notebooks and checked where they enter."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from plasticity_env.common.arguments import check_counts, fill, flags, given, plain
from plasticity_env.common.errors import unknown
from plasticity_env.common.tracking import TrackingOptions
from plasticity_env.common.values import check_number, check_text
from plasticity_env.common.wandb_run import check_mode
from plasticity_env.data.text_settings import TextSettings
from plasticity_env.model.modes import PruningMode
from plasticity_env.steps.learning_settings import LearningSettings
from plasticity_env.strategies.thresholds import Thresholds

CONTROLLER = "controller"  # the strategy that stands for a controller in the loop
REVIVE = "revive"  # the growth_init of heads that come back as they were
LEVELS = ("auto", "full", "gradual")
NESTED: dict[str, Any] = {"tracking": TrackingOptions, "thresholds": Thresholds}  # settings in a dataclass of their own


@dataclass(frozen=True)
class ExperimentSettings(TextSettings, LearningSettings):
    """Everything that is decided before a run; JSON-able, so that a run can be repeated and taken up again."""

    model_name: str = "bard-gpt2-4x4"
    """an embedded model, a Hugging Face folder or hub name, or a GGUF file"""
    pruning_strategy: str = "entropy"
    """what chooses the heads: entropy, gradient, magnitude, random, combined, fisher, residual_fisher, ..., or controller"""
    prune_entropy: str = "auto"
    """which heads the entropy strategy prunes first: those of high or of low entropy; auto tries both on calibration text"""
    pruning_level: float = 0.2
    """share of all head slots (with --mlp_blocks of all units) that is pruned when a cycle's pruning is over, in [0, 1)"""
    mlp_blocks: int = 0
    """blocks of MLP neurons a layer that are pruned beside the heads, scores then counting per FLOP; 0: heads alone"""
    neuron_order: str = "auto"
    """with --mlp_blocks, order of a layer's neurons before they are cut: kfac or token_fisher (cheap ones together), stored, or
    auto: kfac, but for a model whose neurons are in an order already"""
    pruning_mode: str = "adaptive"
    """adaptive (pruned heads may be revived and grown) or compressed (pruning is permanent, rows are removed at the end)"""
    level_schedule: str = "auto"
    """full (each cycle prunes to the level) or gradual (cycle c of C to c/C of it); auto: full if adaptive, else gradual"""
    reconsider: bool = True
    """adaptive mode: pruned heads are considered again in every cycle, so that some are revived and others pruned instead"""
    max_perplexity_increase: float | None = None
    """pruning stops before the perplexity on reward text is above (1 + this) times the control arm's; unset: no budget"""
    portion: float = 0.05
    """with a budget: share of all head slots pruned between two measurements"""
    cycles: int = 3
    """number of cycles of measuring, pruning, growing and learning"""
    warmup_steps: int = 200
    """largest number of optimizer steps before the first cycle; fewer if the loss is stable earlier"""
    stabilisation_window: int = 20
    """steps in a window of the test for a stable loss"""
    stabilisation_threshold: float = 0.01
    """relative improvement from one window to the next below which a loss counts as stable, two windows in a row"""
    analysis_steps: int = 10
    """batches of calibration text in one measuring pass"""
    training_steps: int = 200
    """optimizer steps of fine-tuning in each cycle"""
    decision_every: int = 0
    """online plasticity: the decision maker decides again after every so many fine-tuning steps; 0: once per cycle"""
    growth_strategy: str = "gradient_sensitivity"
    """which pruned heads grow: gradient_sensitivity, entropy_gap, balanced or random"""
    growth_ratio: float = 0.5
    """share of the pruned heads that is grown back in each cycle (adaptive mode)"""
    growth_init: str = "random"
    """what a head that comes back starts from: random, copy or transfer (new weights behind a gate that opens slowly), lemon or
    gradmax (new weights that leave the model's function as it is), or revive: the weights that it had, its gate open at once"""
    growth_trial_steps: int = 0
    """heads come back on trial: only where after so many optimizer steps the loss on reward text is lower than without them by
    more than their FLOPs cost at flop_price; 0: without a trial"""
    initial_scale: float = 0.01
    """first value of a grown head's gate"""
    growth_warmup_steps: int = 50
    """optimizer steps until a grown head's gate is 1; no more than there are until the next decision or the end of the
    cycle's training, so that no gate is judged half open"""
    lr_decay_steps: int = 200
    """optimizer steps in which the multiple falls back to 1"""
    repair: str = "none"
    """repair after pruning: none, bias, scale, least_squares, ...; with none, tables compare pruning without repair"""
    controller: str = "plasticity"
    """with pruning_strategy controller: plasticity (thresholds), ann (the shipped network), or the folder of another"""
    aggressiveness: float = 0.4
    """share on the idle side of each threshold of the plasticity controller"""
    thresholds: Annotated[Thresholds, flags(Thresholds)] = Thresholds(min_zeroed_epochs=1)
    """thresholds of the plasticity controller"""
    free_policy: bool = False
    """a trained controller chooses how much to prune (pruning_level is its limit); else it prunes to pruning_level"""
    flop_price: float = 4.0
    """price of a nat of log FLOPs that controllers observe and are paid by"""
    reward_blocks: int = 32
    """blocks of reward text that decide budgets"""
    test_blocks: int = 64
    """blocks of test text that tables show"""
    prompt: str = ""
    """text that the samples continue; unset: the first words of the test text"""
    sample_tokens: int = 60
    """tokens of each sample; 0 writes no samples"""
    seed: int = 0
    """seed of every random choice"""
    device: str = "auto"
    """device to run on: auto, cpu, cuda, ..."""
    save_model: bool = False
    """keep the final model as a checkpoint under models/"""
    checkpoints: bool = True
    """after each phase, keep what a resumed run needs (both arms, optimizers)"""
    tracking: TrackingOptions = field(default_factory=TrackingOptions)

    def __post_init__(self) -> None:
        TextSettings.__post_init__(self)
        LearningSettings.__post_init__(self)
        for name in ("model_name", "device", "controller"):
            check_text(name, getattr(self, name))
        check_strategy(self.pruning_strategy)
        if self.level_schedule not in LEVELS:
            raise unknown("level schedule", self.level_schedule, LEVELS)
        PruningMode.parse(self.pruning_mode)
        self._check_names()
        check_mode(self.tracking.wandb_mode)
        check_number("pruning_level", self.pruning_level, 0, 1, below=True)
        self._check_ranges()
        check_counts(self, cycles=1, stabilisation_window=1, analysis_steps=1, lr_decay_steps=1)
        check_counts(self, warmup_steps=0, training_steps=0, decision_every=0, mlp_blocks=0, growth_warmup_steps=0)
        check_counts(self, growth_trial_steps=0, reward_blocks=1, test_blocks=1, sample_tokens=0, seed=0)

    def _check_names(self) -> None:
        if given(self, "growth_init") and self.growth_init != REVIVE:
            from plasticity_env.growth.initial_weights import find_initial_weights

            find_initial_weights(self.growth_init)
        if given(self, "prune_entropy", "growth_strategy"):
            from plasticity_env.strategies.growing import GROWTH_STRATEGIES
            from plasticity_env.strategies.pruning import DIRECTIONS

            if self.prune_entropy not in DIRECTIONS:
                raise unknown("entropy direction", self.prune_entropy, DIRECTIONS)
            if self.growth_strategy not in GROWTH_STRATEGIES:
                raise unknown("growth strategy", self.growth_strategy, GROWTH_STRATEGIES)
        if given(self, "repair") and self.repair != "least_squares":  # the default of some commands
            from plasticity_env.repair.registry import find_repair

            find_repair(self.repair)

    def _check_ranges(self) -> None:
        if self.neuron_order != "auto":
            from plasticity_env.strategies.neuron_order import find_order

            find_order(self.neuron_order)
        for name in ("growth_ratio", "aggressiveness"):
            check_number(name, getattr(self, name), 0, 1)
        for name in ("portion", "initial_scale"):
            check_number(name, getattr(self, name), 0, 1, above=True)
        check_number("flop_price", self.flop_price, 0, 1e6, above=True)
        check_number("stabilisation_threshold", self.stabilisation_threshold, 0, 1, below=True)
        if self.max_perplexity_increase is not None:
            check_number("max_perplexity_increase", self.max_perplexity_increase, 0)

    @property
    def adaptive(self) -> bool:
        """Whether pruned heads may come back."""
        return PruningMode.parse(self.pruning_mode) is PruningMode.ADAPTIVE

    @property
    def gate_warmup_steps(self) -> int:
        """Steps until the gate of a head that grows before a cycle's training is 1: see `gate_warmup`."""
        return self.gate_warmup(self.training_steps)

    def gate_warmup(self, left: int) -> int:
        """Steps until a grown head's gate is 1: as asked, but open when somebody decides or judges again.

        Args:
            left: Optimizer steps until the cycle's training ends.
        """
        return min(self.growth_warmup_steps, left, self.decision_every or left)

    def level(self, cycle: int) -> float:
        """Share of all slots that is pruned when the pruning of cycle 1, 2, ... is over."""
        gradual = self.level_schedule == "gradual" or (self.level_schedule == "auto" and not self.adaptive)
        return self.pruning_level * cycle / self.cycles if gradual else self.pruning_level

    def to_json(self) -> dict[str, Any]:
        """All arguments; paths as text."""
        return plain(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ExperimentSettings:
        """What `to_json` said; arguments that are not known here are left out.

        Raises:
            InputError: A value that cannot be used.
        """
        known = {name: value for name, value in values.items() if name in _names()}
        for name, kind in NESTED.items():
            if isinstance(part := known.get(name), dict):
                known[name] = {option: value for option, value in part.items() if option in kind.__dataclass_fields__}
        for name, before in (("text_split", "leading"), ("neuron_order", "stored")):
            known.setdefault(name, before)  # as in all runs before there was a choice
        return fill(cls(), known, "the run's settings")


def check_strategy(name: str) -> str:
    """Return the name of a pruning strategy, or of the controller's.

    Raises:
        InputError: No such strategy.
    """
    if name in (CONTROLLER, ExperimentSettings.pruning_strategy):
        return name
    from plasticity_env.strategies.pruning import PRUNING_STRATEGIES

    if name not in PRUNING_STRATEGIES:
        raise unknown("pruning strategy", name, [*PRUNING_STRATEGIES, CONTROLLER])
    return name


def new_run_path(root: Path = Path("runs/neural_plasticity")) -> Path:
    """``root/run_YYYYMMDD_HHMMSS``; nothing is made."""
    stem = f"run_{time.strftime('%Y%m%d_%H%M%S')}"
    count = 1
    while (path := root / (stem if count == 1 else f"{stem}_{count}")).exists():
        count += 1
    return path


def _names() -> list[str]:
    return [entry.name for entry in fields(ExperimentSettings)]

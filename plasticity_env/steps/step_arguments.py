"""The arguments of the three steps, and of the text that each of them reads."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from plasticity_env.common.arguments import check_counts, given
from plasticity_env.common.errors import InputError, unknown
from plasticity_env.common.values import LARGEST_RATE, check_number, count_of
from plasticity_env.data.text_settings import TextSettings
from plasticity_env.model.embedded import embedded_models
from plasticity_env.steps.learning_settings import LearningSettings

if TYPE_CHECKING:
    from torch import Tensor

    from plasticity_env.data.text import TextSplits
    from plasticity_env.model.checkpoints import Checkpoint

HUB_TEXT = ("wikitext", "wikitext-2-raw-v1")


S = TypeVar("S", bound=TextSettings)


def with_text(settings: S, model_name: str) -> S:
    """The same settings with a text: where none is named Shakespeare for an embedded model and WikiText-2 for any other."""
    name = settings.dataset or ("shakespeare" if model_name in embedded_models() else HUB_TEXT[0])
    config = settings.dataset_config or (HUB_TEXT[1] if name == HUB_TEXT[0] else None)
    return replace(settings, dataset=name, dataset_config=config)


@dataclass(frozen=True)
class StepText(TextSettings):
    """The text that a step reads."""

    dataset: str = ""
    """text: shakespeare (or tiny_shakespeare), a path, or a hub data set; unset: that of the previous step, otherwise shakespeare
    for an embedded model and wikitext for any other"""
    calibration_blocks: int = 32
    """blocks of the calibration split that heads are measured on"""
    test_blocks: int = 16
    """blocks of the test split that say what the step did to the perplexity"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, calibration_blocks=1, test_blocks=1)

    def open(self, checkpoint: Checkpoint) -> TextSplits:
        """The text, tokenised for a model.

        Raises:
            InputError: No such text, one that is too short, or blocks longer than the model's positions.
        """
        from plasticity_env.model.loading import check_positions

        check_positions(checkpoint.loaded, self.max_length)
        own, noted = self, checkpoint.notes.get("text")
        if noted and not self.dataset:
            name, config, split = [*noted, "leading"][:3]  # as texts were split before it was noted
            split = self.text_split if given(self, "text_split") else split
            own = replace(self, dataset=name, dataset_config=self.dataset_config or config, text_split=split)
        own = with_text(own, checkpoint.loaded.name)
        checkpoint.notes["text"] = [own.dataset, own.dataset_config, own.text_split]
        return own.load(checkpoint.loaded.tokenizer)

    def calibration(self, text: TextSplits, seed: int) -> Tensor:
        """(n, T) calibration blocks that a seed draws."""
        blocks = text.blocks("calibration")
        if self.calibration_blocks > len(blocks):
            raise InputError(
                f"calibration_blocks {self.calibration_blocks} is more than the {len(blocks)} of {text.name!r} at max_length "
                f"{self.max_length}: ask for fewer or use a longer text"
            )
        return text.drawn("calibration", self.calibration_blocks, seed)

    def test(self, text: TextSplits) -> Tensor:
        """(n, T) test blocks."""
        return text.some("test", self.test_blocks)


@dataclass(frozen=True, kw_only=True)
class Step:
    """What the arguments of all steps share."""

    output_path: Path | None = None
    """a folder, or a .pth file; unset: a folder under runs/"""
    seed: int = 0
    """draws calibration blocks and whatever else is random, and fixes the order of the training text"""
    device: str = "auto"
    """device to run on: auto, cpu, cuda, ..."""
    text: StepText = field(default_factory=StepText)

    def __post_init__(self) -> None:
        check_counts(self, seed=0)


@dataclass(frozen=True)
class PruneConfig(Step):
    """Arguments of the pruning step."""

    model_name: str = "distilgpt2"
    """an embedded name, a Hugging Face folder, a GGUF file, a hub name, or a checkpoint of a pruned model"""
    pruning_level: float | None = None
    """share of all head slots that is pruned afterwards, in [0, 1); unset: 0.2"""
    strategy: str = ""
    """what chooses the heads: fisher, gradient, magnitude, entropy, combined, random, ...; unset: fisher, or with --flops
    crossfit_stepwise, whose prices are of text that the repair has not read"""
    prune_entropy: str = "auto"
    """with --strategy entropy: whether high or low entropy goes first; auto measures on calibration text"""
    repair: str = "least_squares"
    """how the remaining heads make up for the pruned ones: none, bias, scale, least_squares, sequential, ..."""
    flops: float | None = None
    """share of the model's FLOPs to keep, in (0, 1): heads and blocks of MLP neurons go; replaces --pruning_level"""
    mlp_blocks: int = 8
    """with --flops: blocks of MLP neurons a layer that are units beside the heads; 0: heads alone"""
    moment_blocks: int | None = None
    """with --flops: blocks of text beside the calibration blocks that the repair is fitted on; unset: 64, or what there is"""
    recover: str = ""
    """tokens to train on afterwards, as 200k or 1M: the pruned model learns the dense one's logits and hidden states"""
    recovery_rate: float = 2e-4
    """with --recover: learning rate of AdamW"""

    @property
    def level(self) -> float:
        """The ``pruning_level``, or what it is where it is unset."""
        return 0.2 if self.pruning_level is None else self.pruning_level

    @property
    def recovery_tokens(self) -> int:
        """Tokens of ``recover``; 0 for none."""
        return count_of("recover", self.recover) if self.recover else 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, mlp_blocks=0, moment_blocks=0)
        check_number("recovery_rate", self.recovery_rate, 0, LARGEST_RATE, above=True)
        self.recovery_tokens  # noqa: B018  refuses what is no count
        if self.flops is not None:
            check_number("flops", self.flops, 0, 1, above=True, below=True)
            if self.pruning_level is not None:
                raise InputError("--flops and --pruning_level both say how much goes: name one of the two")
            if given(self, "prune_entropy"):
                raise InputError("--prune_entropy is for --pruning_level: with --flops leave it out")
        elif self.mlp_blocks != PruneConfig.mlp_blocks or self.moment_blocks is not None:
            raise InputError("--mlp_blocks and --moment_blocks are for --flops: name the share of the FLOPs to keep")
        if not 0 <= self.level < 1:
            raise InputError(
                f"pruning_level must lie in [0, 1), got {self.pruning_level!r}: 0.2 prunes a fifth of all heads"
            )
        if given(self, "strategy", "prune_entropy", "repair"):
            from plasticity_env.repair.registry import find_repair
            from plasticity_env.strategies.pruning import DIRECTIONS, PRUNING_STRATEGIES

            if self.strategy and self.strategy not in PRUNING_STRATEGIES:
                raise unknown("pruning strategy", self.strategy, PRUNING_STRATEGIES)
            if self.prune_entropy not in DIRECTIONS:
                raise unknown("entropy direction", self.prune_entropy, DIRECTIONS)
            find_repair(self.repair)
        if not self.strategy:
            object.__setattr__(self, "strategy", "fisher" if self.flops is None else "crossfit_stepwise")


@dataclass(frozen=True)
class ExpandConfig(Step):
    """Arguments of the growth step."""

    model_path: str = ""
    """the checkpoint of a pruned model: a folder or a .pth file"""
    model_name: str | None = None
    """name that the checkpoint's model must have; unset: any name"""
    growth_percentage: float = 0.1
    """share of all head slots that grows, in (0, 1]; at most what is pruned"""
    growth_strategy: str = "gradient_sensitivity"
    """which pruned heads: gradient_sensitivity, entropy_gap, balanced or random"""
    initial_scale: float = 0.01
    """what a new head's output is multiplied by at first, in (0, 1]"""
    warmup_steps: int = 100
    """optimizer steps until the initial scale has grown to 1"""
    initial_weights: str = "random"
    """what a new head starts from: random, copy (of the layer's most useful head), transfer (from the mirrored layer), lemon (a
    duplicate that shares what the original writes) or gradmax (values of the steepest gradient)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.growth_percentage <= 1:
            raise InputError(
                f"growth_percentage {self.growth_percentage!r} is outside (0, 1]: 0.1 grows a tenth of all heads"
            )
        if given(self, "growth_strategy", "initial_scale", "warmup_steps", "initial_weights"):
            from plasticity_env.growth.initial_weights import find_initial_weights
            from plasticity_env.growth.schedule import WarmupSchedule
            from plasticity_env.strategies.growing import GROWTH_STRATEGIES

            if self.growth_strategy not in GROWTH_STRATEGIES:
                raise unknown("growth strategy", self.growth_strategy, GROWTH_STRATEGIES)
            WarmupSchedule(self.initial_scale, self.warmup_steps)
            find_initial_weights(self.initial_weights)


@dataclass(frozen=True)
class FineTuneConfig(Step, LearningSettings):
    """Arguments of the learning step."""

    model_path: str = ""
    """the checkpoint of a pruned or expanded model: a folder or a .pth file"""
    model_name: str | None = None
    """name that the checkpoint's model must have; unset: any name"""
    lr_decay_steps: int | None = None
    """optimizer steps in which it falls back to the rate of all other heads; unset: the whole training"""
    epochs: int = 1
    """number of passes over the training text"""
    max_steps: int | None = None
    """largest number of optimizer steps; unset: no limit"""
    temperature: float = 1.0
    """temperature of the distillation"""
    teacher: str | None = None
    """the dense model; unset: the one that the checkpoint names"""
    save_steps: int = 500
    """optimizer steps between checkpoints, from which --resume continues; Ctrl-C writes one too"""
    resume: bool = False
    """continue what an interrupted run left at --output_path, bit for bit; flags at their defaults are those of that run"""

    def __post_init__(self) -> None:
        Step.__post_init__(self)
        LearningSettings.__post_init__(self)
        check_counts(self, epochs=1, save_steps=1, max_steps=1, lr_decay_steps=1)
        check_number("temperature", self.temperature, 0, 1e6, above=True)
        if self.resume and self.output_path is None:
            raise InputError("--resume needs the --output_path of the interrupted run")

"""What all cells of the study share."""

from __future__ import annotations

from dataclasses import dataclass

from plasticity_env.common.arguments import check_counts, given
from plasticity_env.common.errors import InputError
from plasticity_env.common.values import LARGEST_RATE, check_number

HOME, SHIFT = "home", "shift"


@dataclass(frozen=True)
class Setting:
    """What all cells of a table share; a cell of another setting is another cell.

    Attributes:
        stages: Domains of the stages in their order, separated by commas: "home" is the text that the model knows, "shift" the
            other one; pruned arms reach their share over the first one.
        decisions: Decisions in a stage, each followed by training.
        share: Share of all heads, pruned from the end of the first stage on.
        train_steps: Training steps after each decision.
        learning_rate: Learning rate of AdamW, constant.
        batch_size: Sequences a step.
        block_size: Tokens a sequence.
        repair: Repair of every mask.
        calibration_blocks, reward_blocks: Drawn anew for each stage, the same ones for all arms.
        test_blocks: First blocks of each text's test split; they decide nothing.
        draws: Number of draws of other heads that are closed for comparison with those that came back.
    """

    stages: str = "home,home,shift,shift,home,home"
    decisions: int = 4
    share: float = 0.5
    train_steps: int = 8
    learning_rate: float = 3e-4
    batch_size: int = 8
    block_size: int = 128
    repair: str = "least_squares"
    calibration_blocks: int = 16
    reward_blocks: int = 16
    test_blocks: int = 64
    draws: int = 2

    def __post_init__(self) -> None:
        wrong = [domain for domain in self.path if domain not in (HOME, SHIFT)]
        if wrong or not self.path:
            raise InputError(f"stages name {HOME!r} or {SHIFT!r}, separated by commas, got {self.stages!r}")
        check_number("share", self.share, 0, 1, above=True, below=True)
        check_number("learning_rate", self.learning_rate, 0, LARGEST_RATE, above=True)
        check_counts(self, decisions=1, train_steps=1, test_blocks=1, draws=1, batch_size=1, block_size=2)
        check_counts(self, calibration_blocks=1, reward_blocks=1)
        if given(self, "repair"):
            from plasticity_env.repair.registry import find_repair

            find_repair(self.repair)

    @property
    def path(self) -> tuple[str, ...]:
        """The domains of the stages, in order."""
        return tuple(word.strip() for word in self.stages.split(","))

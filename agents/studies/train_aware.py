"""Does the loss of a mask after its repair tell which masks are best after training? If it does, nothing has to learn that.

    python -m plasticity_env.agents.studies.train_aware

Masks of one size and of very different quality (prices of units with more or less noise) are repaired, measured, and trained on
the same text. Rows go to ``output`` as they finish, and a run that was cut goes on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plasticity_env.common.arguments import check_counts
from plasticity_env.common.at_work import at_work_on
from plasticity_env.common.cli import numbers, run
from plasticity_env.common.errors import InputError
from plasticity_env.common.files import LineFile
from plasticity_env.common.progress import Progress
from plasticity_env.common.values import LARGEST_RATE, check_number
from plasticity_env.data.batches import BlockBatches
from plasticity_env.data.text import load_text
from plasticity_env.model.flops import CostTable, flop_table
from plasticity_env.model.loading import load_model
from plasticity_env.repair.whole import repair_model
from plasticity_env.signals.measure import mean_loss
from plasticity_env.signals.text_sums import gather_sums
from plasticity_env.training.trainer import PlasticityTrainer

NOISE = (0.0, 0.3, 1.0, 3.0)  # standard deviations of the log of prices that are added to them, mask after mask
REPLICATES = 2000  # of the bootstrap over masks


@dataclass(frozen=True)
class TrainAware:
    """Arguments of the study."""

    model: str = "bard-gpt2-4x4"
    """language model"""
    masks: int = 200
    """number of masks"""
    share: float = 0.4
    """share of the units' FLOPs that every mask prunes"""
    steps: str = "64,512"
    """optimizer steps after which the loss is measured, separated by commas"""
    learning_rate: float = 3e-4
    """learning rate of AdamW"""
    mlp_blocks: int = 8
    """blocks of MLP neurons a layer, beside the heads"""
    batch_size: int = 4
    """sequences in a batch"""
    length: int = 64
    """tokens in a sequence"""
    calibration_blocks: int = 64
    """sequences that price and repair"""
    test_blocks: int = 128
    """sequences on which losses are measured"""
    seed: int = 0
    """seed of the masks and of the training text's order"""
    output: Path = Path("runs/train_aware/rows.jsonl")
    """finished masks, one JSON line each"""
    report: bool = False
    """only print what the finished masks say"""

    def __post_init__(self) -> None:
        counts = {"masks": 3, "batch_size": 1, "length": 2, "calibration_blocks": 2, "test_blocks": 1}
        check_counts(self, seed=0, mlp_blocks=0, **counts)
        check_number("share", self.share, 0, 1, above=True, below=True)
        check_number("learning_rate", self.learning_rate, 0, LARGEST_RATE, above=True)
        self.stops  # noqa: B018  refuses what are no numbers of steps

    @property
    def stops(self) -> list[int]:
        """``steps`` as numbers, rising.

        Raises:
            InputError: Something else.
        """
        found = numbers(self.steps, "steps")
        if not found or any(step < 1 or step != int(step) for step in found) or list(found) != sorted(set(found)):
            raise InputError(
                f"--steps wants rising whole numbers of at least 1, separated by commas, got {self.steps!r}"
            )
        return [int(step) for step in found]


def main(config: TrainAware) -> None:
    """Train every mask that is not finished, and print the rank correlations."""
    with at_work_on(config.output):
        setting = {name: value for name, value in asdict(config).items() if name not in ("masks", "output", "report")}
        rows = _rows(config.output, setting)
        if not config.report and len(rows) < config.masks:
            rows += _played(config, setting, len(rows))
    print(correlations(rows[: config.masks], config.stops))


def _rows(path: Path, setting: dict[str, Any]) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [row for row in map(json.loads, lines) if row["setting"] == setting]


def _played(config: TrainAware, setting: dict[str, Any], done: int) -> list[dict[str, Any]]:
    loaded = load_model(config.model, device="cpu", mlp_blocks=config.mlp_blocks)
    model, text = loaded.model, load_text("shakespeare", loaded.tokenizer, block_size=config.length)
    calibration = text.drawn("calibration", config.calibration_blocks, config.seed)
    test, train = text.some("test", config.test_blocks), text.blocks("train")
    table = flop_table(model, config.length)
    dense, before = torch.ones(model.shape, dtype=torch.bool), model.snapshot()
    prices = (gather_sums(model, calibration).prices(model).clamp(min=1e-12) / table.marginal(dense)).log()
    target = table.total(dense) - config.share * (table.total(dense) - table.base)
    random = torch.Generator().manual_seed(config.seed)
    rows = []
    with Progress("training masks", config.masks, start=done) as progress:
        file = LineFile(config.output)
        for number in range(config.masks):
            noise = NOISE[number % len(NOISE)] * torch.randn(model.shape, generator=random, dtype=torch.float64)
            if number < done:
                continue
            active = _cheapest(prices + noise, target, table)
            model.restore(before)
            model.prune(~active)
            repair_model(model, "least_squares", calibration)
            losses = [mean_loss(model, test, 16)]
            batches = BlockBatches(train, config.batch_size, config.seed)
            trainer = PlasticityTrainer(model, batches, learning_rate=config.learning_rate)
            for steps in config.stops:
                trainer.run(steps - trainer.taken)
                losses.append(mean_loss(model, test, 16))
            rows.append({"mask": number, "noise": NOISE[number % len(NOISE)], "losses": losses, "setting": setting})
            file.write(json.dumps(rows[-1]) + "\n")
            progress.advance(1, loss=losses[-1])
        file.close()
    return rows


def _cheapest(prices: Tensor, target: float, table: CostTable) -> Tensor:
    """(L, U) mask: units go by price until the FLOPs are at the target or below."""
    active = torch.ones(prices.shape, dtype=torch.bool)
    for unit in prices.flatten().argsort().tolist():
        if table.total(active) <= target:
            break
        active.view(-1)[unit] = False
    return active


def correlations(rows: Sequence[dict[str, Any]], stops: Sequence[int]) -> str:
    """Markdown: rank correlation of the loss after repair with that after training, and what choosing by the former costs.

    Args:
        rows: Finished masks.
        stops: Steps after which losses were measured.
    """
    if len(rows) < 3:
        return f"{len(rows)} masks are finished: at least 3 are needed"
    losses = np.array([row["losses"] for row in rows])
    lines = [
        f"{len(rows)} masks; after repair {losses[:, 0].min():.3f} to {losses[:, 0].max():.3f} nats",
        "",
        "| steps | losses, nats | rank correlation with the loss after repair [95%] | of the better half | "
        "best after repair, above the best |",
        "|---|---|---|---|---|",
    ]
    half = losses[np.argsort(losses[:, 0])[: max(3, len(rows) // 2)]]
    for number, steps in enumerate(stops, 1):
        after = losses[:, number]
        regret = after[losses[:, 0].argmin()] - after.min()
        lines.append(
            f"| {steps} | {after.min():.3f} to {after.max():.3f} | {_interval(losses[:, 0], after)} | "
            f"{_interval(half[:, 0], half[:, number])} | {regret:.4f} |"
        )
    return "\n".join(lines)


def _interval(one: np.ndarray, other: np.ndarray) -> str:
    random, found = np.random.default_rng(0), []
    for _ in range(REPLICATES):
        drawn = random.integers(len(one), size=len(one))
        found.append(rank_correlation(one[drawn], other[drawn]))
    low, high = np.nanquantile(found, [0.025, 0.975])
    return f"{rank_correlation(one, other):.3f} [{low:.3f}, {high:.3f}]"


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's; equal values share their mean rank, and where all are equal it is NaN."""
    first, second = (
        np.array([(values < each).sum() + (values == each).sum() / 2 for each in values]) for values in (one, other)
    )
    first, second = first - first.mean(), second - second.mean()
    size = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / size if size else float("nan")


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(TrainAware, main)

"""Which score with which repair: perplexity on text that neither saw, over shares of pruned heads and draws of calibration text.

Heads are chosen once, or in rounds of measure, prune and parallel least-squares repair. Cells are appended to a JSON lines
file as they finish, and those that it holds already are skipped, so that a run can be cut and goes on.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plasticity_env.cells import CellFile, spread
from plasticity_env.errors import InputError, check_least, unknown
from plasticity_env.loading import LoadedModel
from plasticity_env.model import PlasticModel
from plasticity_env.repair.apply import repair_sites
from plasticity_env.repair.names import find_repair
from plasticity_env.repair.sequential import repair_in_order
from plasticity_env.repair.statistics import Statistics
from plasticity_env.residual import model_projectors
from plasticity_env.signals import HeadSignals, gather, mean_loss, measure
from plasticity_env.text import TextSplits

Score = Callable[[HeadSignals, Tensor, torch.Generator], Tensor]


def _read(name: str) -> Score:
    return lambda signals, active, random: getattr(signals, name)


def _rank_sum(*names: str) -> Score:
    """Sum of the ranks of some signals among the active heads."""

    def score(signals: HeadSignals, active: Tensor, random: torch.Generator) -> Tensor:
        total = torch.zeros(active.shape)
        for name in names:
            total[active] += getattr(signals, name)[active].argsort(stable=True).argsort(stable=True).float()
        return total

    return score


def _flap(signals: HeadSignals, active: Tensor, random: torch.Generator) -> Tensor:
    """FLAP's ranking: fluctuation, standardised over the active heads of each layer."""
    values, counted = signals.fluctuation.double(), active.double()
    count = counted.sum(1, keepdim=True).clamp(min=1)
    centred = values - (values * counted).sum(1, keepdim=True) / count
    spread = ((centred.square() * counted).sum(1, keepdim=True) / count).sqrt()
    return centred / spread.clamp(min=1e-12)


# name -> (L, H) importance from signals, (L, H) active heads and a source of randomness; lowest pruned first
SCORES: dict[str, Score] = {
    **{n: _read(n) for n in ("fisher", "gradient", "residual_fisher", "residual_gradient", "obs")},
    **{n: _read(n) for n in ("residual_token_fisher", "residual_kfac", "residual_stepwise")},
    **{n: _read(n) for n in ("activation", "magnitude", "fluctuation")},
    "flap": _flap,
    "fisher_obs": _rank_sum("fisher", "obs"),
    "entropy_low": lambda signals, active, random: signals.entropy_normalized,
    "entropy_high": lambda signals, active, random: -signals.entropy_normalized,
    "random": lambda signals, active, random: torch.rand(signals.fisher.shape, generator=random),
}
READS_OBS = ("obs", "fisher_obs")
REFERENCE = ("fisher", 1, "least_squares")


@dataclass(frozen=True)
class Study:
    """What all cells share; a cell of another study is another cell.

    Attributes:
        dataset: Text.
        block_size: Tokens a sequence.
        calibration_blocks: Drawn by the seed from the calibration split; they score and repair.
        test_blocks: First blocks of the test split; they decide nothing.
        batch_size: Sequences in one pass.
    """

    dataset: str
    block_size: int = 256
    calibration_blocks: int = 16
    test_blocks: int = 8
    batch_size: int = 4

    def __post_init__(self) -> None:
        for name in ("calibration_blocks", "test_blocks", "batch_size"):
            check_least(name, getattr(self, name), 1)


@dataclass(frozen=True)
class Cell:
    """One score, one repair, one share, one seed.

    Attributes:
        model, study, score, rounds, share, repair, seed: Which.
        removed: Pruned heads.
        test_loss, dense_loss: Nats per token.
    """

    model: str
    study: Study
    score: str
    rounds: int
    share: float
    repair: str
    seed: int
    removed: int
    test_loss: float
    dense_loss: float

    @property
    def key(self) -> tuple[object, ...]:
        """What tells cells apart."""
        return (self.model, self.study, self.score, self.rounds, self.share, self.repair, self.seed)


def run_study(
    loaded: LoadedModel,
    text: TextSplits,
    study: Study,
    path: Path,
    *,
    scores: list[str],
    repairs: list[str],
    shares: list[float],
    seeds: int,
    rounds: int = 1,
) -> Iterator[tuple[Cell, bool]]:
    """Play the cells that a file lacks, appending each; yields every cell, and whether the file held it.

    Args:
        loaded: The model, dense; left so.
        text: Its text, packed at the study's block size.
        study: What all cells share.
        path: JSON lines.
        scores: Names in `SCORES`.
        repairs: Names in `REPAIRS`.
        shares: Of all heads, to prune.
        seeds: Draws of calibration text.
        rounds: Measurements over which the pruning is spread evenly.

    Raises:
        InputError: An unknown name, a share outside (0, 1), or a text too short.
    """
    for score in scores:
        if score not in SCORES:
            raise unknown("score", score, SCORES)
    ways = [find_repair(name).name for name in repairs]
    if not shares or any(not 0 < share < 1 for share in shares) or seeds < 1 or rounds < 1:
        raise InputError(f"shares {shares} must lie between 0 and 1, seeds {seeds} and rounds {rounds} be at least 1")
    for split, count in (("calibration", study.calibration_blocks), ("test", study.test_blocks)):
        if not 0 < count <= len(text.blocks(split)):  # type: ignore[arg-type]
            raise InputError(f"{split} blocks must be from 1 to {len(text.blocks(split))}, got {count}")  # type: ignore[arg-type]
    file = _file(path)
    known = {cell.key: cell for cell in file.read()}
    for seed in range(seeds):
        bench = _Bench(loaded.model, text, study, seed)
        for score in scores:
            for share in shares:
                keys = {way: (loaded.name, study, score, rounds, share, way, seed) for way in ways}
                yield from ((known[key], True) for key in keys.values() if key in known)
                missing = [way for way, key in keys.items() if key not in known]
                active = bench.choose(score, share, rounds) if missing else None
                for way in missing:
                    assert active is not None
                    removed = int((~active).sum())
                    losses = bench.test_loss(active, way), bench.dense_loss
                    cell = Cell(loaded.name, study, score, rounds, share, way, seed, removed, *losses)
                    file.append(asdict(cell))
                    yield cell, False
    loaded.model.undo_repair()
    loaded.model.set_active(torch.ones(loaded.model.shape, dtype=torch.bool))


class _Bench:
    """One draw of calibration text over one model; measured when it is first needed."""

    def __init__(self, model: PlasticModel, text: TextSplits, study: Study, seed: int) -> None:
        blocks = text.blocks("calibration")
        drawn = np.sort(np.random.default_rng(seed).choice(len(blocks), study.calibration_blocks, replace=False))
        self._model, self._study, self._seed = model, study, seed
        self._ids, self._test = blocks[drawn.tolist()], text.blocks("test")[: study.test_blocks]
        self._statistics: Statistics | None = None
        self._dense: HeadSignals | None = None
        self._dense_loss: float | None = None

    @property
    def statistics(self) -> Statistics:
        if self._statistics is None:
            self._install(torch.ones(self._model.shape, dtype=torch.bool), "none")
            self._statistics = gather(self._model, self._ids, self._study.batch_size)
        return self._statistics

    @property
    def dense_loss(self) -> float:
        if self._dense_loss is None:
            self._install(torch.ones(self._model.shape, dtype=torch.bool), "none")
            self._dense_loss = mean_loss(self._model, self._test, self._study.batch_size)
        return self._dense_loss

    def choose(self, score: str, share: float, rounds: int) -> Tensor:
        """(L, H) mask after pruning the heads of lowest score."""
        active = torch.ones(self._model.shape, dtype=torch.bool)
        total = round(share * active.numel())
        random = torch.Generator().manual_seed(self._seed)
        for done in range(rounds):
            signals = self._signals(active, obs=score in READS_OBS)
            importance = SCORES[score](signals, active, random).masked_fill(~active, torch.inf)
            count = round(total * (done + 1) / rounds) - int((~active).sum())
            active = active.clone()
            active.view(-1)[importance.flatten().argsort(stable=True)[:count]] = False
        return active

    def test_loss(self, active: Tensor, repair: str) -> float:
        self._install(active, repair)
        return mean_loss(self._model, self._test, self._study.batch_size)

    def _install(self, active: Tensor, repair: str) -> None:
        way, batch = find_repair(repair), self._study.batch_size
        self._model.undo_repair()
        self._model.set_active(active)
        if way.sequential:
            repair_in_order(self._model, self._ids, mlp=way.mlp, weighted=way.weighted, batch_size=batch)
        elif way.method is not None:
            statistics = self.statistics
            self._model.set_active(active)
            repair_sites(self._model, way.method, statistics)

    def _signals(self, active: Tensor, obs: bool) -> HeadSignals:
        if bool(active.all()) and self._dense is not None:
            return self._dense
        statistics = self.statistics
        self._install(active, "none" if bool(active.all()) else "least_squares")
        projectors = model_projectors(self._model, statistics)
        dense = bool(active.all())  # measured once, for every score
        batch = self._study.batch_size
        signals = measure(self._model, self._ids, batch_size=batch, obs=obs or dense, projectors=projectors)
        if dense:
            self._dense = signals
        return signals


def read_cells(path: Path) -> list[Cell]:
    """The finished cells of a file; none where there is no file.

    Raises:
        InputError: A line that is no cell.
    """
    return _file(path).read()


def _file(path: Path) -> CellFile[Cell]:
    return CellFile(path, _parse, "this study")


def _parse(row: dict[str, Any]) -> Cell:
    return Cell(**{**row, "study": Study(**row["study"])})


def table(cells: Iterable[Cell]) -> str:
    """Markdown: a row for each score, rounds and repair, a column for each share; perplexity, mean and spread over seeds.

    Beside it, where the reference was played on the same seeds, the mean ratio to it.
    """
    groups: dict[tuple[str, int, str], dict[float, dict[int, Cell]]] = {}
    for cell in cells:
        groups.setdefault((cell.score, cell.rounds, cell.repair), {}).setdefault(cell.share, {})[cell.seed] = cell
    shares = sorted({share for row in groups.values() for share in row})
    lines = ["| score | rounds | repair | " + " | ".join(f"{share:.0%}" for share in shares) + " |"]
    lines.append("|---" * (3 + len(shares)) + "|")
    for (score, rounds, repair), row in groups.items():
        texts = [_entry(row.get(share, {}), groups.get(REFERENCE, {}).get(share, {})) for share in shares]
        lines.append(f"| {score} | {rounds} | {repair} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def _entry(cells: dict[int, Cell], reference: dict[int, Cell]) -> str:
    if not cells:
        return ""
    perplexities = [math.exp(min(cell.test_loss, 700.0)) for cell in cells.values()]
    text = spread(perplexities, ".2f", ".2f")
    if set(cells) <= set(reference):
        ratios = [math.exp(min(c.test_loss, 700.0) - reference[seed].test_loss) for seed, c in cells.items()]
        text += f" ({statistics.mean(ratios):.3f})"
    return text

"""What a grid found, as a Markdown table over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable

from plasticity_env.common.jsonl_table import spread
from plasticity_env.cycle.grid.grid_plan import CONTROL, NONE, GridArm, GridSetting
from plasticity_env.cycle.grid.grid_run import GridCell

SMALLEST_LOSS = 0.002  # nats: where pruning cost less, a share of it is noise
COLUMNS = (
    *("pruned", "repair", "comes back", "share", "rate", "warm-up", "cycles", "heads left", "FLOPs kept"),
    *("ppl pruned", "ppl edited", "ppl trained", "minus no growth", "minus never pruned", "recovery"),
)
ABOUT = (
    "Perplexity of the test split, mean ± standard deviation over seeds: just after pruning (and repair), just after heads "
    "came back, and after training. *minus no growth*: nats per token against the same pruned model under the same "
    "training with nothing brought back, seed by seed; below 0 is better. *minus never pruned*: against pruning, once, only "
    "as many heads as are missing in the end, under the same training. *recovery*: 1 - (loss after training - the control "
    "arm's) / (loss after pruning - the dense model's), so 100% is as good as the control arm. *rate*: learning rate of heads "
    "that came back, in multiples of the others'."
)


class GridCells:
    """The cells of one setting, found by what they are compared with.

    Args:
        cells: Cells of one setting.
    """

    def __init__(self, cells: Iterable[GridCell]) -> None:
        self._by_key = {(cell.arm, cell.seed): cell for cell in cells}
        self.arms = list(dict.fromkeys(arm for arm, _ in self._by_key))
        self.seeds = sorted({seed for _, seed in self._by_key})

    def of(self, arm: GridArm) -> list[GridCell]:
        """An arm's cells, in the order of seeds."""
        return [cell for seed in self.seeds if (cell := self._by_key.get((arm, seed))) is not None]

    def gain(self, arm: GridArm, other: GridArm, same_heads: bool = False) -> list[float]:
        """Final loss minus that of another arm, on the seeds that both have, nats per token.

        Args:
            arm, other: The two arms; an arm beside itself has no gain.
            same_heads: Count only seeds on which both end with the same number of heads.
        """
        if arm == other:
            return []
        pairs = [(cell, self._by_key.get((other, cell.seed))) for cell in self.of(arm)]
        return [
            cell.final_loss - twin.final_loss
            for cell, twin in pairs
            if twin is not None and (not same_heads or cell.active_heads == twin.active_heads)
        ]

    def recovery(self, arm: GridArm) -> list[float]:
        """Share of pruning's loss that is made good, on the seeds with a control arm where pruning cost anything."""
        shares = []
        for cell in self.of(arm):
            control = self._by_key.get((CONTROL, cell.seed))
            if control is None or cell.pruned_loss - control.pruned_loss < SMALLEST_LOSS:
                continue
            lost = cell.pruned_loss - control.pruned_loss
            shares.append(1 - (cell.final_loss - control.final_loss) / lost)
        return shares


def grid_table(cells: Iterable[GridCell]) -> str:
    """Cells as Markdown, a table a setting."""
    by_setting: dict[GridSetting, list[GridCell]] = {}
    for cell in cells:
        by_setting.setdefault(cell.setting, []).append(cell)
    return "\n\n".join(_table(setting, GridCells(own)) for setting, own in by_setting.items())


def _table(setting: GridSetting, cells: GridCells) -> str:
    lines = [_heading(setting, cells), "", ABOUT, ""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    arms = [arm for arm in cells.arms if arm != CONTROL]
    order = {arm: place for place, arm in enumerate(arms)}
    for arm in sorted(arms, key=lambda a: (a.repair, a.level, a.growth != NONE, a.growth, order[a])):
        lines.append("| " + " | ".join(_row(arm, cells)) + " |")
    return "\n".join(lines)


def _heading(setting: GridSetting, cells: GridCells) -> str:
    text = (
        f"**{setting.model_name} on {setting.dataset}**: {setting.pruning_strategy} prunes, then {setting.training_steps} steps "
        f"of {setting.batch_size} x {setting.max_length} tokens at learning rate {setting.learning_rate:g}, "
        f"{len(cells.seeds)} seed{'s' if len(cells.seeds) != 1 else ''}."
    )
    control = cells.of(CONTROL)
    if not control:
        return text + " No control arm yet."
    before, after = _perplexity(control, lambda c: c.pruned_loss), _perplexity(control, lambda c: c.final_loss)
    return f"{text} {control[0].slots} heads. Test perplexity of the dense model {before}, of the control arm {after}."


def _row(arm: GridArm, cells: GridCells) -> list[str]:
    own = cells.of(arm)
    grows = arm.growth != NONE
    missing = f" ({len(own)} of {len(cells.seeds)} seeds)" if len(own) < len(cells.seeds) else ""
    return [
        f"{arm.level:.0%}",
        arm.repair,
        ("nothing" if not grows else arm.growth) + missing,
        f"{arm.percentage:.0%}" if grows else "-",
        f"{arm.multiplier:g}x" if grows else "-",
        f"{arm.warmup_steps}" if grows and arm.growth != "revive" else "-",
        f"{arm.cycles}",
        f"{statistics.fmean(cell.active_heads for cell in own):g} of {own[0].slots}",
        f"{statistics.fmean(cell.flops_kept for cell in own):.1%}",
        _perplexity(own, lambda c: c.pruned_loss),
        _perplexity(own, lambda c: c.cycles[0].edited) if grows else "-",
        _perplexity(own, lambda c: c.final_loss),
        _difference(cells.gain(arm, arm.without_growth)),
        _difference(cells.gain(arm, arm.same_size, same_heads=True)),
        _share(cells.recovery(arm)),
    ]


def _perplexity(cells: list[GridCell], loss: Callable[[GridCell], float]) -> str:
    return spread([math.exp(min(loss(cell), 700.0)) for cell in cells], ".2f", ".2f")


def _difference(values: list[float]) -> str:
    return spread(values, "+.4f") if values else "-"


def _share(values: list[float]) -> str:
    return spread(values, ".0%", ".0%") if values else "-"

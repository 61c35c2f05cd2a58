"""The study's cells as Markdown: loss at the end of each stage, what revival does, and whether what came back matters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from plasticity_env.agents.studies.adaptive.study import CONTROL
from plasticity_env.agents.studies.adaptive.study_arms import ARMS, SCORE
from plasticity_env.agents.studies.adaptive.study_cells import Cell, StageRecord
from plasticity_env.common.errors import InputError
from plasticity_env.common.jsonl_table import spread

MARKS = "<!-- tables: made by scripts/study_adaptive.py -->", "<!-- end of tables -->"
REVIVING, FIXED = "rule", "compressed"  # the same rule with and without revival


class Cells:
    """Cells of one model and setting, by arm and seed.

    Args:
        cells: One cell at least; where an arm has several fingerprints, the last counts.

    Raises:
        InputError: No cells, or cells of several models or settings.
    """

    def __init__(self, cells: Iterable[Cell]) -> None:
        self.by_arm: dict[str, dict[int, Cell]] = {}
        kinds = set()
        for cell in cells:
            kinds.add(cell.table)
            self.model, self.setting, self.texts = cell.model, cell.setting, cell.texts
            own = self.by_arm.setdefault(cell.arm, {})
            if own and next(iter(own.values())).fingerprint != cell.fingerprint:
                own.clear()
            own[cell.seed] = cell
        if len(kinds) != 1:
            raise InputError(f"a table wants cells of one model, setting and pair of texts, got {len(kinds)} of them")
        self.arms = list(self.by_arm)
        self.seeds = sorted({seed for row in self.by_arm.values() for seed in row})

    def values(self, arm: str, read: Callable[[StageRecord], float | None], stage: int) -> list[float]:
        """One number of a stage for each seed of an arm that has it."""
        found = [read(cell.stages[stage]) for _, cell in sorted(self.by_arm[arm].items())]
        return [value for value in found if value is not None]

    def gains(self, arm: str, reference: str, read: Callable[[StageRecord], float], stage: int) -> list[float]:
        """An arm's number minus another arm's, seed by seed."""
        mine, other = self.by_arm.get(arm, {}), self.by_arm.get(reference, {})
        return [
            read(mine[seed].stages[stage]) - read(other[seed].stages[stage]) for seed in sorted(set(mine) & set(other))
        ]


def present_loss(stage: StageRecord) -> float:
    """Test loss on the text that the stage trains on."""
    return stage.test[stage.domain]


def report(cells: Sequence[Cell]) -> str:
    """All tables of one model and setting, with a line on what the cells share."""
    found = Cells(cells)
    parts = [_head(found)]
    parts += [
        f"Test NLL on **{name}** at the end of each stage:\n\n{_losses(found, d)}" for d, name in found.texts.items()
    ]
    parts.append(
        f"Minus `{FIXED}` with the same score (or `ann_fixed`: the same decider, nothing comes back), seed by seed, test NLL on "
        f"the text of the stage:\n\n{_differences(found)}"
    )
    parts.append(
        "What went and came back. *Back* counts the heads that are active at a stage's end and were pruned at its start, a "
        "seed; *closed again* is what closing them costs in test NLL on the text of the stage (the rest repaired), *others* "
        f"what closing as many other active heads costs:\n\n{_revivals(found)}"
    )
    return "\n\n".join(parts)


def legend(names: Iterable[str]) -> str:
    """Markdown list of what the arms are."""
    kinds = dict.fromkeys(name.partition(":")[0] for name in names)
    return "\n".join(f"- `{kind}`: {ARMS[kind].what}." for kind in ARMS if kind in kinds)


def _head(found: Cells) -> str:
    s = found.setting
    steps = s.train_steps * s.decisions
    tokens = steps * s.batch_size * s.block_size
    pruned = [
        stage.flops_kept
        for arm in found.arms
        if arm != CONTROL
        for c in found.by_arm[arm].values()
        for stage in c.stages
    ]
    kept = (
        f"; the pruned arms keep {min(pruned):.1%} to {max(pruned):.1%} of the FLOPs at a stage's end" if pruned else ""
    )
    return (
        f"`{found.model}`, {s.share:.0%} of the heads pruned{kept}. {len(found.seeds)} seeds. A stage: {s.decisions} decisions, "
        f"each with {s.train_steps} steps of {s.batch_size} x {s.block_size} tokens ({tokens:,} tokens a stage), AdamW at "
        f"{s.learning_rate:g}, repair `{s.repair}` on {s.calibration_blocks} blocks, {s.test_blocks} test blocks. Nats per token."
    )


def _columns(found: Cells) -> list[str]:
    return [f"{number} {found.texts[domain]}" for number, domain in enumerate(found.setting.path, 1)]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _losses(found: Cells, domain: str) -> str:
    dense = next(iter(found.by_arm[found.arms[0]].values())).dense[domain]
    stages = range(len(found.setting.path))

    def row(arm: str) -> list[str]:
        short = "" if len(found.by_arm[arm]) == len(found.seeds) else f" ({len(found.by_arm[arm])} seeds)"
        return [
            f"{arm}{short}",
            *(spread(found.values(arm, lambda s: s.test[domain], i), ".3f", ".3f") for i in stages),
        ]

    return _table([f"arm (dense, untrained: {dense:.3f})", *_columns(found)], map(row, found.arms))


def _reference(found: Cells, arm: str) -> str | None:
    """The arm without revival that shares an arm's score (or network)."""
    kind, _, score = arm.partition(":")
    if kind == "ann" and f"ann_fixed{arm[3:]}" in found.arms:
        return f"ann_fixed{arm[3:]}"
    same = [name for name in found.arms if name.partition(":")[0] == FIXED]
    if kind in (CONTROL, FIXED) or not same:
        return None
    wanted = score if kind in (REVIVING, "once", "grow", "search") and score else SCORE
    return next((name for name in same if (name.partition(":")[2] or SCORE) == wanted), same[0])


def _differences(found: Cells) -> str:
    rows = []
    for arm in found.arms:
        reference = _reference(found, arm)
        if reference is None:
            continue
        gains = [found.gains(arm, reference, present_loss, i) for i in range(len(found.setting.path))]
        rows.append([f"{arm} - {reference}", *(spread(g, "+.3f", ".3f") if g else "" for g in gains)])
    return _table(["", *_columns(found)], rows)


def _revivals(found: Cells) -> str:
    rows = []
    for arm in found.arms:
        if arm == CONTROL:
            continue
        for number, name in enumerate(_columns(found)):
            back = found.values(arm, lambda s: s.came_back, number)
            if not any(back):
                continue
            went, came = (found.values(arm, read, number) for read in (lambda s: s.prunes, lambda s: s.returns))
            cost = [_cost(found, arm, number, read) for read in (lambda s: s.closed, lambda s: s.others)]
            counts = [f"{sum(values) / len(values):.1f}" for values in (went, came, back)]
            rows.append([arm, name, *counts, *cost])
    return (
        _table(["arm", "stage", "prunes", "returns", "back", "closed again", "others"], rows)
        if rows
        else "Nothing came back."
    )


def _cost(found: Cells, arm: str, number: int, read: Callable[[StageRecord], float | None]) -> str:
    def rise(stage: StageRecord) -> float | None:
        closed = read(stage)
        return None if closed is None else closed - present_loss(stage)

    values = found.values(arm, rise, number)
    return spread(values, "+.3f", ".3f") if values else "-"

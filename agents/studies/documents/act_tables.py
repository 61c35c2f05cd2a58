"""The table of the acts: a row an act, means over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from plasticity_env.agents.studies.documents.act_row import ActRow
from plasticity_env.agents.studies.documents.acts import ACTS, Act

COLUMNS = (
    *("act", "flags", "seeds", "perplexity", "control arm", "over control", "FLOPs kept"),
    *("pruned", "revived", "grown", "minutes", "goal"),
)


def acts_table(rows: Sequence[ActRow], acts: Sequence[Act] = ACTS) -> str:
    """Markdown: the acts that have rows, in their order, and below it the command lines."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    commands = []
    for act in acts:
        own = [row for row in rows if (row.act, row.model) == (act.name, act.model)]
        if own:
            lines.append("| " + " | ".join(_cells(act, own)) + " |")
            shown = "\n".join(own[0].commands)
            commands.append(f"**{act.name}** ({act.model}), {act.says()}:\n\n```\n{shown}\n```")
    return "\n".join(lines) + "\n\n" + "\n\n".join(commands)


def said(row: ActRow, act: Act) -> str:
    """A row in a sentence: what came out, and whose flags they were."""
    beside = "the dense model" if row.control is None else "its control arm"
    return (
        f"{row.act}, seed {row.seed}: perplexity {row.ppl:.2f}, {row.over:+.1%} over {beside}, "
        f"{row.flops_kept:.1%} of the FLOPs, {row.pruned} pruned, {row.revived} revived, {row.grown} grown ({act.says()})"
    )


def goal_met(act: Act, rows: Sequence[ActRow]) -> str:
    """Whether every seed reaches the act's goal, with what it is; a dash where it has none."""
    if act.goal is None:
        return "-"
    share, rise = act.goal
    met = all(row.flops_kept <= share and row.over <= rise for row in rows)
    missing = f", {len(rows)} of {act.seeds} seeds" if len(rows) < act.seeds else ""
    return f"at most {rise:+.0%} at {share:.0%}: {'met' if met else 'missed'}{missing}"


def _cells(act: Act, rows: Sequence[ActRow]) -> list[str]:
    over = [row.over for row in rows]
    control = [row.control for row in rows if row.control is not None]
    spread = f" ± {statistics.stdev(over):.1%}" if len(rows) > 1 else ""
    return [
        act.name,
        act.asked if not act.beside else f"{act.asked} ({act.beside})",
        str(len(rows)),
        f"{statistics.fmean(row.ppl for row in rows):.2f}",
        f"{statistics.fmean(control):.2f}" if control else "-",
        f"{statistics.fmean(over):+.1%}{spread}",
        f"{statistics.fmean(row.flops_kept for row in rows):.1%}",
        *(
            f"{statistics.fmean(values):.3g}"
            for values in zip(*((r.pruned, r.revived, r.grown) for r in rows), strict=True)
        ),
        f"{statistics.fmean(row.seconds for row in rows) / 60:.1f}",
        goal_met(act, rows),
    ]

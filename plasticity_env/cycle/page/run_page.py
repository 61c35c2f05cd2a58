"""The page of an experiment, from the files of its record: complete up to where the run is, or was cut.

``python -m plasticity_env.cycle.page.run_page FOLDER`` writes the pages of a run again.
"""

from __future__ import annotations

import html
import sys
import time
from pathlib import Path
from typing import Any

from plasticity_env.cycle.page import figures as drawn
from plasticity_env.cycle.page import head_maps, page_style, sections, stage_charts
from plasticity_env.cycle.page import page_charts as charts
from plasticity_env.cycle.page.cycle_charts import cycle_pictures
from plasticity_env.cycle.page.story import DONE, cycles_of, phase_name, stages_of
from plasticity_env.cycle.record import RunRecord
from plasticity_env.plots.html import NOT_MEASURED, Figures, grid, plot, write_page

PAGE = "dashboards/dashboard.html"
_RELOAD = 20  # seconds
_PROCESS_LEGEND = [
    ("line", "experiment", "experiment"),
    ("dash", "control", "control arm"),
    ("▼", "prune", "pruned"),
    ("◆", "revive", "revived"),
    ("▲", "grow", "grown"),
    ("band", "warm", "warm-up"),
    ("band", "tune", "fine-tuning"),
    ("dash", "ink", "warm-up is stable"),
]
_PHASE_LEGEND = [
    ("line", "experiment", "experiment"),
    ("dash", "control", "control arm"),
    ("▼", "experiment", "after pruning"),
    ("▲", "experiment", "after growth"),
    ("●", "experiment", "after fine-tuning"),
    ("■", "experiment", "at evaluation"),
]
_AFTER = {"pruning": "after pruning", "growth": "after growth", "fine_tuning": "after fine-tuning"}
_AFTER["evaluation"] = "at evaluation"
_HEAD_LEGEND = [("✖", "prune", "pruned"), ("●", "grow", "new, still warming up")]
_STATE_LEGEND = [
    ("band", "on", "active"),
    ("band", "off", "pruned before"),
    ("band", "prune", "pruned now"),
    ("band", "revive", "revived now"),
    ("band", "grow", "grown now"),
]


def write_pages(folder: str | Path, final: bool = True) -> None:
    """Write what is looked at: ``dashboards/dashboard.html``, and when the run is over the pictures beside it.

    Args:
        folder: Of the run.
        final: The run is over (finished, stopped or failed); False: only the page is written, which is quick.

    Raises:
        InputError: The folder holds no run.
        OSError: Nothing can be written there.
    """
    record = RunRecord.read(folder)
    if final:
        write_charts(record)
    write_dashboard(record, record.folder / PAGE)


def write_charts(record: RunRecord) -> list[Path]:
    """Write the pictures of a run under ``dashboards/`` and ``visualizations/``.

    Args:
        record: Of the run.

    Returns:
        Those that could be drawn from what was measured.
    """
    dashboards, pictures = record.folder / "dashboards", record.folder / "visualizations"
    kinds = (
        (charts.complete_process_png, dashboards / "complete_process.png"),
        (charts.multi_cycle_png, dashboards / "multi_cycle_process.png"),
        (charts.attention_heatmaps_png, dashboards / "attention_heatmaps.png"),
        (stage_charts.active_heads_png, pictures / "active_heads_by_stage.png"),
        (stage_charts.before_and_after_png, pictures / "perplexity_by_phase.png"),
        (stage_charts.improvement_png, pictures / "improvement_over_cycles.png"),
    )
    return [path for draw, path in kinds if draw(record, path)] + cycle_pictures(record, pictures)


def write_dashboard(record: RunRecord, path: Path) -> None:
    """Write the page of a run.

    Args:
        record: Of the run.
        path: The HTML file, inside the run's folder.
    """
    figures: Figures = {}
    heads, moments = _heads(record, figures)
    parts = [
        ("Summary", sections.summary(record)),
        ("Complete process", _process(record, figures)),
        ("Perplexity and sparsity beside the control arm", _comparison(record, figures)),
        ("Warm-up", _warmup(record, figures)),
        ("Heads, moment by moment", heads),
        ("Decisions", _decisions(record, figures)),
        ("Phases", sections.phase_table(record) + _curves(record, figures)),
        ("Text samples", sections.samples(record)),
        ("Files", sections.files(record, path)),
    ]
    links = "".join(f'<a href="#part-{index}">{name}</a>' for index, (name, _) in enumerate(parts))
    body = "\n".join(
        f'<section id="part-{index}"><h2>{name}</h2>\n{content}</section>'
        for index, (name, content) in enumerate(parts)
    )
    running = record.config.get("status") == "running"
    write_page(
        path,
        f"Neural plasticity: {sections.settings_of(record).get('model_name') or record.folder.name}",
        f"{_state(record, running)}<nav>{links}</nav>\n{body}",
        {"figures": figures, "frames": [], "moments": moments},
        style=page_style.STYLE,
        script=page_style.SCRIPT,
        head=f'<meta http-equiv="refresh" content="{_RELOAD}">\n' if running else "",
    )


def _state(record: RunRecord, running: bool) -> str:
    """Where the run stands, in a line."""
    status = str(record.config.get("status", "unknown"))
    cycles = cycles_of(record)
    last = record.phases[-1] if record.phases else None
    done = f", cycle {cycles[-1]}" if cycles else ""
    if last:
        done += f", {phase_name(last.phase)} {'interrupted' if last.details.get('interrupted') else 'done'}"
    silence = f'<span id="silence" data-written="{time.time():.0f}"></span>' if running else ""
    cut = "; shown is what was measured up to there" if status in ("stopped", "failed") else ""
    when = time.strftime("%Y-%m-%d %H:%M:%S")
    return (
        f'<p class="state {html.escape(status)}"><b>{html.escape(status)}</b>{html.escape(done)}{cut}. '
        f"Written {when}.{silence}</p>"
    )


def _legend(entries: list[tuple[str, str, str]], missing: frozenset[str] = frozenset()) -> str:
    """Marks, names of their colours and what they mean, without what is missing on the figure."""
    items = []
    for mark, name, said in entries:
        if said in missing:
            continue
        kind = {"line": "line", "dash": "dash", "band": ""}.get(mark, "mark")
        sign = mark if kind == "mark" else ""
        items.append(f'<li><i class="{kind}" style="--of: var(--{name})">{sign}</i>{html.escape(said)}</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'


def _missing(record: RunRecord) -> frozenset[str]:
    """Entries of the legends that nothing stands for in this run."""
    there = {DONE[event.edit] for event in record.events if event.edit in DONE}
    there |= {phase_name(row.phase) for row in record.phases} | {phase_name(row.phase) for row in record.steps[-1:]}
    there |= {_AFTER.get(row.phase, "") for row in stages_of(record)}
    there |= {"control arm"} if drawn.has_control(record) else set()
    there |= {"warm-up is stable"} if record.stabilisation and record.stabilisation.stabilised_at is not None else set()
    return frozenset(said for _, _, said in (*_PROCESS_LEGEND, *_PHASE_LEGEND) if said != "experiment") - there


def _process(record: RunRecord, figures: Figures) -> str:
    found = drawn.process(record)
    if found is None:
        return NOT_MEASURED
    note = "Shaded: phases that train. Vertical lines: heads were pruned, revived or grown, which takes no step."
    legend = _legend(_PROCESS_LEGEND, _missing(record))
    return f'<p class="note">{note}</p>{plot(figures, *found, "Loss, perplexity, heads", legend)}'


def _comparison(record: RunRecord, figures: Figures) -> str:
    found = drawn.comparison(record)
    if found is None:
        return NOT_MEASURED
    note = (
        "The control arm is a copy made when warm-up ended; it takes the same training batches and is never pruned."
        if drawn.has_control(record)
        else "This run has no control arm: what pruning costs cannot be told from what training gives."
    )
    card = plot(figures, *found, "Phase by phase", _legend(_PHASE_LEGEND, _missing(record)))
    return f'<p class="note">{note}</p>{card}{sections.cycle_table(record)}'


def _warmup(record: RunRecord, figures: Figures) -> str:
    found = drawn.warmup(record)
    if found is None:
        return NOT_MEASURED
    told = record.stabilisation
    reason = told.reason.rstrip(".") if told else "the warm-up has not been judged yet"
    note = f"{reason[:1].upper()}{reason[1:]}."
    legend = _legend([("line", "experiment", "loss of a step"), ("line", "ink", "mean of a window")])
    return f'<p class="note">{html.escape(note)}</p>{plot(figures, *found, "Loss of the warm-up", legend)}'


def _heads(record: RunRecord, figures: Figures) -> tuple[str, list[dict[str, Any]]]:
    """Maps with their slider, and the moments that it goes through."""
    maps, moments = head_maps.signal_maps(record)
    if not maps:
        return NOT_MEASURED, []
    first = len(figures)
    cards = [plot(figures, *figure, title) for title, figure in maps]
    for moment in moments:
        moment["maps"] = {f"figure-{first + index}": held for index, held in enumerate(moment["maps"])}
    note = "A map's colours mean the same at every moment; where values differ by decades they are logarithmic."
    controls = (
        '<div class="controls bar"><output id="moment-label" for="moment"></output>'
        '<button type="button" id="moment-back" aria-label="one moment back">‹</button>'
        '<button type="button" id="moment-play">Play</button>'
        '<button type="button" id="moment-next" aria-label="one moment on">›</button>'
        '<input type="range" id="moment" min="0" value="0" step="1" autocomplete="off" aria-label="moment"></div>'
    )
    return f'<p class="note">{note}</p>{controls}{grid(cards, "19rem")}{_legend(_HEAD_LEGEND)}', moments


def _decisions(record: RunRecord, figures: Figures) -> str:
    found = head_maps.decisions(record)
    if found is None:
        return '<p class="missing">no head was edited yet</p>'
    chart = plot(figures, *found, "Edits, and every head after them", _legend(_STATE_LEGEND))
    return f"{chart}{sections.decision_table(record)}"


def _curves(record: RunRecord, figures: Figures) -> str:
    cards = []
    for name, title in (("grad_norm", "Norm of the gradients, before clipping"), ("learning_rate", "Learning rate")):
        found = drawn.training_curve(record, name)
        if found:
            cards.append(plot(figures, *found, title))
    return f'<div style="margin-top: 0.9rem">{grid(cards, "19rem")}</div>' if cards else ""


if __name__ == "__main__":
    from plasticity_env.common.errors import InputError

    try:
        write_pages(sys.argv[1] if len(sys.argv) > 1 else "")
    except InputError as error:
        sys.exit(str(error))

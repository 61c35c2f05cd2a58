"""The page of an experiment, from the files of its record: complete up to where the run is, or was cut.

``python -m plasticity_env.cycle.page.run_page FOLDER`` writes the pages of a run again.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from plasticity_env.cycle.page import figures as drawn
from plasticity_env.cycle.page import head_maps
from plasticity_env.cycle.page.head_pictures import head_pictures
from plasticity_env.cycle.page.phase_figures import before_and_after, improvement, multi_cycle
from plasticity_env.cycle.page.sections import sections
from plasticity_env.cycle.page.story import DONE, cycles_of, headline, phase_name, stages_of, units_of
from plasticity_env.cycle.record import RunRecord
from plasticity_env.plots.figure_png import figure_png
from plasticity_env.plots.html import Figures, write_page

_ROOM = "plasticity_env.cycle.page"
PAGE = "dashboards/dashboard.html"
_AFTER = {"pruning": "after pruning", "growth": "after growth", "fine_tuning": "after fine-tuning"}
_AFTER["evaluation"] = "at evaluation"
_CURVES = {"grad_norm": "Norm of the gradients, before clipping", "learning_rate": "Learning rate"}


def write_pages(folder: str | Path, final: bool = True) -> None:
    """Write what is looked at: ``dashboards/dashboard.html``, and when the run is over the pictures beside it.

    Args:
        folder: Folder of the run.
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
        record: Record of the run.

    Returns:
        Those that could be drawn from what was measured.
    """
    dashboards, pictures = record.folder / "dashboards", record.folder / "visualizations"
    cycles = len(cycles_of(record))
    kinds = (
        (drawn.process, dashboards / "complete_process.png", "the complete process"),
        (multi_cycle, dashboards / "multi_cycle_process.png", f"{cycles} cycle{'s' * (cycles != 1)}"),
        (before_and_after, pictures / "perplexity_by_phase.png", "perplexity before (ring) and after (dot) each phase"),
        (improvement, pictures / "improvement_over_cycles.png", "improvement over cycles"),
    )
    written = []
    for draw, path, said in kinds:
        figure = draw(record)
        if figure is not None:
            figure_png(figure, path, headline(record, said), _ROOM, "run.css")
            written.append(path)
    return written + head_pictures(record, dashboards, pictures)


def write_dashboard(record: RunRecord, path: Path) -> None:
    """Write the page of a run.

    Args:
        record: Record of the run.
        path: The HTML file, inside the run's folder.
    """
    figures = Figures()
    titled, moments = head_maps.signal_maps(record)
    maps = [figures.add(figure, title) for title, figure in titled]
    for moment in moments:
        moment["maps"] = {place.name: held for place, held in zip(maps, moment["maps"], strict=True)}
    curves = [figures.add_if(drawn.training_curve(record, name), title) for name, title in _CURVES.items()]
    told = record.stabilisation
    reason = told.reason.rstrip(".") if told else "the warm-up has not been judged yet"
    write_page(
        path,
        _ROOM,
        "run.html",
        title=f"Neural plasticity: {record.settings.get('model_name') or record.folder.name}",
        data={"figures": figures, "moments": moments},
        **_state(record),
        **sections(record, path),
        shown=_shown(record),
        has_control=record.has_control,
        process=figures.add_if(drawn.process(record), f"Loss, perplexity, {units_of(record)}"),
        comparison=figures.add_if(drawn.comparison(record), "Phase by phase"),
        warmup=figures.add_if(drawn.warmup(record), "Loss of the warm-up"),
        warmup_reason=f"{reason[:1].upper()}{reason[1:]}.",
        maps=maps,
        decisions=figures.add_if(head_maps.decisions(record), f"Edits, and every {units_of(record)[:-1]} after them"),
        curves=[curve for curve in curves if curve],
    )


def _state(record: RunRecord) -> dict[str, Any]:
    """Where the run stands, in a line, and when that was written."""
    status = str(record.config.get("status", "unknown"))
    cycles = cycles_of(record)
    state = f", cycle {cycles[-1]}" if cycles else ""
    if record.phases:
        last = record.phases[-1]
        state += f", {phase_name(last.phase)} {'interrupted' if last.details.get('interrupted') else 'done'}"
    if status in ("stopped", "failed"):
        state += "; shown is what was measured up to there"
    now = time.time()
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
    return {
        "status": status,
        "running": status == "running",
        "state": state,
        "written": f"{now:.0f}",
        "written_at": when,
    }


def _shown(record: RunRecord) -> set[str]:
    """Entries of the legends that something stands for in this run."""
    there = {"experiment"} | {DONE[event.edit] for event in record.events if event.edit in DONE}
    there |= {phase_name(row.phase) for row in record.phases} | {phase_name(row.phase) for row in record.steps[-1:]}
    there |= {_AFTER.get(row.phase, "") for row in stages_of(record)}
    there |= {"control arm"} if record.has_control else set()
    stable = record.stabilisation and record.stabilisation.stabilised_at is not None
    return there | ({"warm-up is stable"} if stable else set())


if __name__ == "__main__":
    from plasticity_env.common.errors import InputError

    try:
        write_pages(sys.argv[1] if len(sys.argv) > 1 else "")
    except InputError as error:
        sys.exit(str(error))

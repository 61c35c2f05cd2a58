"""The parts of an experiment's page that are words and tables: summary, cycles, decisions, phases, text, files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from plasticity_env.cycle.page.story import (
    ATTENTION_SIGNALS,
    DONE,
    EDITS,
    cycles_of,
    evaluations_of,
    heads_in_all,
    last_of,
    moment_name,
    moments_of,
    phase_name,
    reference,
    short,
    shown_split,
    unit_name,
    units_of,
)
from plasticity_env.cycle.record import RunRecord
from plasticity_env.cycle.run_checkpoint import going
from plasticity_env.cycle.run_rows import CONTROL, EXPERIMENT, EvaluationRow, PruningEvent, Sample
from plasticity_env.cycle.run_settings import CONTROLLER, REVIVE
from plasticity_env.cycle.summary import summarise
from plasticity_env.plots.html import NOT_MEASURED, Cell, Link, file_links

_SETTINGS = {
    "model_name": "model",
    "dataset": "text",
    "pruning_strategy": "pruning",
    "growth_strategy": "growth",
    "pruning_level": "pruning level",
    "mlp_blocks": "MLP blocks",
    "pruning_mode": "mode",
    "learning_rate": "learning rate",
    "seed": "seed",
    "device": "device",
}
_MOST_FILES, _MOST_DECISIONS = 400, 3000
_MISSING = NOT_MEASURED._replace(kind="none number")


def sections(record: RunRecord, page: Path) -> dict[str, Any]:
    """What the template of the page names, figures excepted.

    Args:
        record: Record of the run.
        page: The HTML file, from which files are linked.
    """
    command, files = record.config.get("command"), _files(record, page)
    about = {key: value for key, value in record.config.items() if key not in ("settings", "command")}
    events = record.events[-_MOST_DECISIONS:]
    return {
        "verdict": verdict(record) if evaluations_of(record, EXPERIMENT) else "",
        "facts": facts(record),
        "command": " ".join(map(str, command)) if isinstance(command, list) else command,
        "settings": [(str(name), _detail(value)) for name, value in {**record.settings, **about}.items()],
        "split": shown_split(record),
        "units": units_of(record),
        "cycles": cycle_rows(record),
        "filters": _filters(events),
        "events": [(event, _decision(record, event)) for event in events],
        "events_before": len(record.events) - len(events),
        "phases": phase_rows(record),
        "sample_cycles": sorted({sample.cycle for sample in record.samples if sample.when != "baseline"}),
        "samples": _samples(record),
        "files": _by_folder(files[:_MOST_FILES]),
        "files_left": max(0, len(files) - _MOST_FILES),
    }


def facts(record: RunRecord) -> list[tuple[str, str]]:
    """Names and values of what was run and what it did to the model."""
    settings = record.settings
    mine, control = evaluations_of(record, EXPERIMENT), evaluations_of(record, CONTROL)
    shown = settings | _growth(settings)
    if blocks := settings.get("mlp_blocks"):
        shown = shown | {"mlp_blocks": f"{blocks} a layer, the last columns of each map"}
    else:
        shown.pop("mlp_blocks", None)
    pairs = [(name, short(shown[key])) for key, name in _SETTINGS.items() if shown.get(key) not in (None, "")]
    decider = record.config.get("decider")
    if decider and decider != settings.get("pruning_strategy"):
        pairs.append(("who decides", short(decider)))
    if mine:
        total = heads_in_all(record)
        pairs += [
            ("perplexity before", short(mine[0].ppl)),
            ("perplexity now", short(mine[-1].ppl)),
            ("control arm now", short(control[-1].ppl) if control else "not measured"),
            (f"active {units_of(record)}", f"{mine[-1].active_heads}" + (f" of {total}" if total else "")),
            ("sparsity", f"{mine[-1].sparsity:.1%}"),
            ("FLOPs kept", f"{mine[-1].flops_kept:.1%}"),
        ]
    counts = {edit: sum(event.edit == edit for event in record.events) for edit in EDITS}
    if record.events:
        pairs.append(("decisions", ", ".join(f"{count} {DONE[edit]}" for edit, count in counts.items() if count)))
    if record.phases:
        pairs.append(("time", _duration(sum(row.seconds for row in record.phases))))
    return pairs


def _growth(settings: dict[str, Any]) -> dict[str, str]:
    """What brings heads back, where that is not the growth strategy of the settings."""
    if settings.get("pruning_mode") == "compressed":
        return {"growth_strategy": "none: pruning is permanent"}
    if settings.get("pruning_strategy") == CONTROLLER:
        return {"growth_strategy": "the controller's choice"}
    return {"growth_strategy": "revival, with the old weights"} if settings.get("growth_init") == REVIVE else {}


def verdict(record: RunRecord) -> str:
    """The run in a few sentences, from what was measured."""
    mine = evaluations_of(record, EXPERIMENT)
    if not mine:
        return "Nothing was measured yet."
    now, first = mine[-1], mine[0]
    moments = moments_of(record)
    later = ""
    units = units_of(record)
    if moments and moments[-1].step > now.step and moments[-1].active != now.active_heads:
        later = f" Edits after that left {moments[-1].active} {units} active; how well they do was not measured."
    after = moment_name(now.cycle, now.phase)
    if now.cycle == 0:
        return f"After {after}: perplexity {short(now.ppl)}, {short(first.ppl)} before anything; nothing is pruned yet."
    said = (
        f"After {after}: {now.sparsity:.1%} of the {units} are pruned, {now.flops_kept:.1%} of the FLOPs are left, and the "
        f"perplexity is {short(now.ppl)}; before anything it was {short(first.ppl)}."
    )
    control = reference(record, now)
    if control is None:
        missing = "No control arm was measured here, so what pruning costs cannot be told from what training gives."
        return f"{said} {missing}{later}"
    change = now.ppl / control.ppl - 1 if control.ppl > 0 else math.nan
    side = "above" if change >= 0 else "below"
    beside = (
        f"That is {abs(change):.1%} {side} the control arm ({short(control.ppl)}), trained as long without pruning."
    )
    return f"{said} {beside}{later}"


def cycle_rows(record: RunRecord) -> list[list[Cell]]:
    """A row a cycle: perplexity before, pruned, grown, trained, and the control arm's."""
    mine = evaluations_of(record, EXPERIMENT)
    recovered = {found["cycle"]: found["recovered"] for found in summarise(record).get("cycles", [])}
    rows = []
    for cycle in cycles_of(record):
        earlier = [row for row in mine if row.cycle < cycle]
        held = [row for row in mine if row.cycle == cycle]
        if not held:
            continue
        pruned, grown = last_of(mine, cycle, "pruning"), last_of(mine, cycle, "growth")
        tuned = last_of(mine, cycle, "fine_tuning", "evaluation")
        control = reference(record, tuned) if tuned else None
        gap = tuned.ppl / control.ppl - 1 if tuned and control and control.ppl > 0 else None
        side = "" if gap is None else (" worse" if gap > 0 else " better")
        rows.append(
            [
                Cell(str(cycle), cycle),
                *(_ppl(row) for row in (earlier[-1] if earlier else None, pruned, grown, tuned, control)),
                _number(gap, "+.1%", side),
                _number(recovered.get(cycle), ".0%"),
                _number(held[-1].active_heads, "d"),
                _number(held[-1].flops_kept, ".1%"),
            ]
        )
    return rows


def phase_rows(record: RunRecord) -> list[tuple[list[Cell], list[tuple[str, str]], bool]]:
    """A row a phase: steps, time and perplexity after it; its details; and whether these are long."""
    mine = evaluations_of(record, EXPERIMENT)
    rows = []
    for row in record.phases:
        after = last_of(mine, row.cycle, row.phase)
        cells = [
            Cell(str(row.cycle), row.cycle),
            Cell(phase_name(row.phase)),
            Cell(f"{row.first_step}–{row.last_step}", row.first_step, "number"),
            _number(row.last_step - row.first_step, "d"),
            _number(row.seconds, ".1f"),
            _ppl(after),
            _number(after.active_heads if after else None, "d"),
        ]
        entries = [(phase_name(str(name)), _detail(value)) for name, value in row.details.items()]
        rows.append((cells, entries, len(entries) > 4 or sum(len(said) for _, said in entries) >= 80))
    return rows


def _filters(events: list[PruningEvent]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Choices that decisions are filtered by: value and text of each."""
    edits = [(edit, DONE[edit]) for edit in EDITS if any(event.edit == edit for event in events)]
    cycles, layers = sorted({event.cycle for event in events}), sorted({event.layer for event in events})
    numbers = [(name, [(str(n), str(n)) for n in found]) for name, found in (("cycle", cycles), ("layer", layers))]
    return [("edit", edits), *numbers]


def _decision(record: RunRecord, event: PruningEvent) -> list[Cell]:
    unit = unit_name(record, event.layer, event.head)
    hidden = ATTENTION_SIGNALS if "MLP" in unit else ()
    measured = {name: value for name, value in event.signals.items() if value is not None and name not in hidden}
    signals = " · ".join(f"{name.replace('_', ' ')} {short(value, 3)}" for name, value in measured.items())
    return [
        Cell(str(event.cycle), event.cycle),
        Cell(str(event.step), event.step),
        Cell(phase_name(event.phase)),
        Cell(unit, event.layer * 10_000 + event.head),
        Cell(DONE.get(event.edit, event.edit), event.edit, f"edit {event.edit}"),
        Cell(event.decider),
        Cell(event.reason, kind="wrap"),
        Cell(signals, kind="wrap long"),
    ]


def _samples(record: RunRecord) -> dict[str, list[Sample]]:
    """What the model wrote to each prompt: before anything, then pruned and recovered in every cycle."""
    order = ("baseline", "pruned", "recovered")
    samples = sorted(
        (sample for sample in record.samples if sample.when in order),
        key=lambda sample: (sample.when != "baseline", sample.cycle, order.index(sample.when)),
    )
    prompts = dict.fromkeys(sample.prompt for sample in record.samples)
    return {prompt: [sample for sample in samples if sample.prompt == prompt] for prompt in prompts}


def _files(record: RunRecord, page: Path) -> list[Link]:
    """Links to everything in the run's folder that is not hidden; what a finished run is about to forget is left out."""
    found = [file for file in sorted(record.folder.rglob("*")) if file.is_file() and file != page]
    if record.config.get("status") == "finished":
        found = [file for file in found if file not in set(going(record.folder))]
    return file_links(
        (f for f in found if not any(part.startswith(".") for part in f.relative_to(record.folder).parts)),
        page,
        record.folder,
    )


def _by_folder(links: list[Link]) -> dict[str, list[Link]]:
    """Links by the first folder of their names; "" for the run's own files."""
    groups: dict[str, list[Link]] = {}
    for link in links:
        folder, inside, _ = link.name.partition("/")
        groups.setdefault(folder if inside else "", []).append(link)
    return groups


def _ppl(row: EvaluationRow | None) -> Cell:
    return _MISSING if row is None else Cell(short(row.ppl), row.ppl, "number")


def _number(value: float | None, form: str, side: str = "") -> Cell:
    if value is None or not math.isfinite(value):
        return _MISSING
    return Cell(f"{value:{form}}", value, f"number{side}")


def _detail(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_detail(held)}" for name, held in value.items())
    if isinstance(value, list | tuple):
        shown = ", ".join(_detail(held) for held in value[:24])
        return f"{shown}, … ({len(value)})" if len(value) > 24 else shown
    return short(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"

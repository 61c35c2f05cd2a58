"""The parts of an experiment's page that are words and tables: summary, cycles, decisions, phases, text, files."""

from __future__ import annotations

import html
import math
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from plasticity_env.cycle.page.story import (
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
)
from plasticity_env.cycle.record import CONTROL, EXPERIMENT, EvaluationRow, PruningEvent, RunRecord, Sample
from plasticity_env.cycle.run_settings import CONTROLLER
from plasticity_env.plots.html import NOT_MEASURED, facts, grid

_SETTINGS = {
    "model_name": "model",
    "dataset": "text",
    "pruning_strategy": "pruning",
    "growth_strategy": "growth",
    "pruning_level": "pruning level",
    "pruning_mode": "mode",
    "learning_rate": "learning rate",
    "seed": "seed",
    "device": "device",
}
_MOST_FILES, _MOST_DECISIONS = 400, 3000


def summary(record: RunRecord) -> str:
    """What was run, what it did to the model, and the settings behind it."""
    settings = settings_of(record)
    mine, control = evaluations_of(record, EXPERIMENT), evaluations_of(record, CONTROL)
    shown = settings | _growth(settings)
    pairs = [(name, short(shown[key])) for key, name in _SETTINGS.items() if shown.get(key) not in (None, "")]
    decider = record.config.get("decider")
    if decider and decider != settings.get("pruning_strategy"):
        pairs.append(("who decides", short(decider)))
    if mine:
        pairs.append(("perplexity before", short(mine[0].ppl)))
        pairs.append(("perplexity now", short(mine[-1].ppl)))
        pairs.append(("control arm now", short(control[-1].ppl) if control else "not measured"))
        total = heads_in_all(record)
        pairs.append(("active heads", f"{mine[-1].active_heads}" + (f" of {total}" if total else "")))
        pairs.append(("sparsity", f"{mine[-1].sparsity:.1%}"))
        pairs.append(("FLOPs kept", f"{mine[-1].flops_kept:.1%}"))
    counts = {edit: sum(event.edit == edit for event in record.events) for edit in EDITS}
    if record.events:
        pairs.append(("decisions", ", ".join(f"{count} {DONE[edit]}" for edit, count in counts.items() if count)))
    if record.phases:
        pairs.append(("time", _duration(sum(row.seconds for row in record.phases))))
    said = f'<p class="verdict">{html.escape(verdict(record))}</p>' if mine else ""
    command = record.config.get("command")
    command = " ".join(map(str, command)) if isinstance(command, list) else command
    line = f'<p class="note"><code>{html.escape(str(command))}</code></p>' if command else ""
    return f"{said}{facts(pairs)}{line}{_all_settings(record)}"


def _growth(settings: dict[str, Any]) -> dict[str, str]:
    """What grows heads, where that is not the growth strategy of the settings."""
    if settings.get("pruning_mode") == "compressed":
        return {"growth_strategy": "none: pruning is for ever"}
    return {"growth_strategy": "the controller's choice"} if settings.get("pruning_strategy") == CONTROLLER else {}


def verdict(record: RunRecord) -> str:
    """The run in a few sentences, from what was measured."""
    mine = evaluations_of(record, EXPERIMENT)
    if not mine:
        return "Nothing was measured yet."
    now, first = mine[-1], mine[0]
    moments = moments_of(record)
    later = ""
    if moments and moments[-1].step > now.step and moments[-1].active != now.active_heads:
        later = f" Edits after that left {moments[-1].active} heads active; how well they do was not measured."
    after = moment_name(now.cycle, now.phase)
    if now.cycle == 0:
        return f"After {after}: perplexity {short(now.ppl)}, {short(first.ppl)} before anything; no head is pruned yet."
    said = (
        f"After {after}: {now.sparsity:.1%} of the heads are pruned, {now.flops_kept:.1%} of the FLOPs are left, and the "
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


def settings_of(record: RunRecord) -> dict[str, Any]:
    """The settings, whether the configuration holds them in a part of their own or beside the rest."""
    held = record.config.get("settings")
    return held if isinstance(held, dict) else {k: v for k, v in record.config.items() if not isinstance(v, dict)}


def cycle_table(record: RunRecord) -> str:
    """A row a cycle: perplexity before, pruned, grown, trained, and the control arm's."""
    mine = evaluations_of(record, EXPERIMENT)
    rows = []
    for cycle in cycles_of(record):
        earlier = [row for row in mine if row.cycle < cycle]
        held = [row for row in mine if row.cycle == cycle]
        if not held:
            continue
        last = held[-1]
        pruned, grown = last_of(mine, cycle, "pruning"), last_of(mine, cycle, "growth")
        tuned = last_of(mine, cycle, "fine_tuning", "evaluation")
        control = reference(record, tuned) if tuned else None
        cells = [_ppl(row) for row in (earlier[-1] if earlier else None, pruned, grown, tuned, control)]
        gap = tuned.ppl / control.ppl - 1 if tuned and control and control.ppl > 0 else None
        kind = "" if gap is None else (" worse" if gap > 0 else " better")
        cells.append(_share(gap, "+.1%", kind))
        cells.append(_share(_recovered(record, pruned, tuned), ".0%"))
        cells.append(_count(last.active_heads))
        cells.append(_share(last.flops_kept, ".1%"))
        rows.append(f'<tr><th scope="row" data-value="{cycle}">{cycle}</th>{"".join(cells)}</tr>')
    if not rows:
        return ""
    names = [
        "cycle",
        "before",
        "pruned",
        "grown",
        "trained",
        "control",
        "difference",
        "recovered",
        "active heads",
        "FLOPs kept",
    ]
    note = (
        f"Perplexity on the {shown_split(record)} text. Difference: trained against the control arm. Recovered: share of "
        "the loss that pruning cost, over the control arm's, that is back in the end. –: not measured."
    )
    return f'<div class="card"><h3>Cycles</h3><p class="note">{html.escape(note)}</p>{_table(names, rows)}</div>'


def decision_table(record: RunRecord) -> str:
    """Every decision with the signals that led to it, and what to filter them by."""
    if not record.events:
        return ""
    events = record.events[-_MOST_DECISIONS:]
    cycles = sorted({event.cycle for event in events})
    layers = sorted({event.layer for event in events})
    filters = [
        _select("edit", "edit", [(edit, DONE[edit]) for edit in EDITS if any(event.edit == edit for event in events)]),
        _select("cycle", "cycle", [(str(cycle), str(cycle)) for cycle in cycles]),
        _select("layer", "layer", [(str(layer), str(layer)) for layer in layers]),
        '<label>words <input type="search" data-filter="words" autocomplete="off"></label>',
        '<span id="decision-count"></span>',
    ]
    names = ["cycle", "step", "phase", "head", "edit", "decider", "reason", "signals"]
    table = _table(names, [_decision(event) for event in events], "text", "tall", "decisions")
    left = len(record.events) - len(events)
    note = f'<p class="note">{left} earlier ones: see pruning_events.json.</p>' if left else ""
    return f'<div class="card"><h3>Every decision</h3><div class="filters">{"".join(filters)}</div>{note}{table}</div>'


def phase_table(record: RunRecord) -> str:
    """A row a phase: steps, time, perplexity after it, and its details."""
    if not record.phases:
        return NOT_MEASURED
    mine = evaluations_of(record, EXPERIMENT)
    rows = []
    for row in record.phases:
        after = last_of(mine, row.cycle, row.phase)
        heads = _count(after.active_heads if after else None)
        steps = row.last_step - row.first_step
        rows.append(
            f'<tr><th scope="row" data-value="{row.cycle}">{row.cycle}</th><td>{phase_name(row.phase)}</td>'
            f'<td class="number" data-value="{row.first_step}">{row.first_step}–{row.last_step}</td>'
            f'<td class="number" data-value="{steps}">{steps}</td>'
            f'<td class="number" data-value="{row.seconds}">{row.seconds:.1f}</td>{_ppl(after)}{heads}'
            f'<td class="wrap">{_details(row.details)}</td></tr>'
        )
    names = ["cycle", "phase", "from–to step", "steps", "seconds", "perplexity", "active heads", "details"]
    return f'<div class="card">{_table(names, rows, "text")}</div>'


def samples(record: RunRecord) -> str:
    """What the model wrote before anything, pruned, and recovered, side by side."""
    if not record.samples:
        return NOT_MEASURED
    cycles = sorted({sample.cycle for sample in record.samples if sample.when != "baseline"})
    options = "".join(f'<option value="{c}"{" selected" * (c == cycles[-1])}>{c}</option>' for c in cycles)
    choice = ""
    if len(cycles) > 1:
        choice = f'<label class="choice">Cycle <select id="sample-cycle" autocomplete="off">{options}</select></label>'
    parts = []
    for prompt in dict.fromkeys(sample.prompt for sample in record.samples):
        mine = [sample for sample in record.samples if sample.prompt == prompt]
        cards = [_sample(sample, "baseline") for sample in mine if sample.when == "baseline"]
        for cycle in cycles:
            for when in ("pruned", "recovered"):
                cards += [_sample(s, f"{when}, cycle {cycle}") for s in mine if (s.when, s.cycle) == (when, cycle)]
        parts.append(f'<p class="prompt">Prompt: <b>{html.escape(prompt)}</b></p>{grid(cards, "17rem")}')
    return f"{choice}{''.join(parts)}"


def files(record: RunRecord, page: Path) -> str:
    """Links to everything in the run's folder, a list a subfolder."""
    found = [file for file in sorted(record.folder.rglob("*")) if file.is_file() and file != page]
    found = [f for f in found if not any(part.startswith(".") for part in f.relative_to(record.folder).parts)]
    groups: dict[str, list[str]] = {}
    for file in found[:_MOST_FILES]:
        relative = file.relative_to(record.folder)
        link = quote(Path(os.path.relpath(file, page.parent)).as_posix())
        name = html.escape(relative.as_posix())
        entry = f'<li><a href="{link}">{name}</a> <small>{_size(file.stat().st_size)}</small></li>'
        groups.setdefault(relative.parts[0] if len(relative.parts) > 1 else "", []).append(entry)
    lists = [
        f'<div class="card"><h3>{html.escape(name) + "/" if name else "run"}</h3><ul class="files">{"".join(held)}</ul></div>'
        for name, held in groups.items()
    ]
    more = f'<p class="note">and {len(found) - _MOST_FILES} more</p>' if len(found) > _MOST_FILES else ""
    return (grid(lists, "19rem") if lists else '<p class="missing">none</p>') + more


def _decision(event: PruningEvent) -> str:
    signals = " · ".join(
        f"{name.replace('_', ' ')} {short(value, 3)}" for name, value in event.signals.items() if value is not None
    )
    edit = f'<span class="edit {html.escape(event.edit)}">{html.escape(DONE.get(event.edit, event.edit))}</span>'
    place = event.layer * 10_000 + event.head
    return (
        f'<tr data-edit="{html.escape(event.edit)}" data-cycle="{event.cycle}" data-layer="{event.layer}">'
        f'<th scope="row" data-value="{event.cycle}">{event.cycle}</th><td data-value="{event.step}">{event.step}</td>'
        f'<td>{phase_name(html.escape(event.phase))}</td><td data-value="{place}">{event.layer}.{event.head}</td>'
        f'<td data-value="{html.escape(event.edit)}">{edit}</td><td>{html.escape(event.decider)}</td>'
        f'<td class="wrap">{html.escape(event.reason)}</td><td class="wrap long">{html.escape(signals)}</td></tr>'
    )


def _select(name: str, label: str, options: list[tuple[str, str]]) -> str:
    entries = "".join(f'<option value="{html.escape(value)}">{html.escape(said)}</option>' for value, said in options)
    return (
        f'<label>{label} <select data-filter="{name}" autocomplete="off"><option value="">all</option>{entries}'
        "</select></label>"
    )


def _table(names: list[str], rows: list[str], kind: str = "", scroll: str = "", name: str = "") -> str:
    head = "".join(f'<th scope="col"><button type="button">{html.escape(name)}</button></th>' for name in names)
    identity = f' id="{name}"' if name else ""
    return (
        f'<div class="scroll {scroll}"><table class="{kind}"{identity}><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _ppl(row: EvaluationRow | None) -> str:
    if row is None:
        return '<td class="none number" title="not measured">–</td>'
    return f'<td class="number" data-value="{row.ppl}">{short(row.ppl)}</td>'


def _count(value: int | None) -> str:
    return (
        '<td class="none number">–</td>' if value is None else f'<td class="number" data-value="{value}">{value}</td>'
    )


def _share(value: float | None, form: str, kind: str = "") -> str:
    if value is None or not math.isfinite(value):
        return '<td class="none number" title="not measured">–</td>'
    return f'<td class="number{kind}" data-value="{value}">{value:{form}}</td>'


def _recovered(record: RunRecord, pruned: EvaluationRow | None, tuned: EvaluationRow | None) -> float | None:
    """Share of the loss that pruning cost, over the control arm's, that was back after training."""
    if pruned is None or tuned is None:
        return None
    before, after = reference(record, pruned), reference(record, tuned)
    if before is None or after is None or not pruned.loss > before.loss:
        return None
    return 1 - (tuned.loss - after.loss) / (pruned.loss - before.loss)


def _details(details: dict[str, Any]) -> str:
    """Few short entries in a line, many behind a click."""
    held = {phase_name(str(name)): _detail(value) for name, value in details.items()}
    line = " · ".join(
        f"<span class='soft'>{html.escape(name)}</span> {html.escape(said)}" for name, said in held.items()
    )
    if sum(map(len, held.values())) < 80 and len(held) <= 4:
        return line
    pairs = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(said)}</dd>" for name, said in held.items())
    return f'<details><summary>{len(held)} entries</summary><dl class="details">{pairs}</dl></details>'


def _detail(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_detail(held)}" for name, held in value.items())
    if isinstance(value, list | tuple):
        shown = ", ".join(_detail(held) for held in value[:24])
        return f"{shown}, … ({len(value)})" if len(value) > 24 else shown
    return short(value)


def _all_settings(record: RunRecord) -> str:
    about = {key: value for key, value in record.config.items() if key not in ("settings", "command")}
    every = {**settings_of(record), **about}
    pairs = "".join(
        f"<dt>{html.escape(str(name))}</dt><dd>{html.escape(_detail(value))}</dd>" for name, value in every.items()
    )
    return f'<details><summary>All settings</summary><dl class="details">{pairs}</dl></details>' if pairs else ""


def _sample(sample: Sample, heading: str) -> str:
    cycle = "" if sample.when == "baseline" else f' data-cycle="{sample.cycle}"'
    text = html.escape(sample.text) or "<i>nothing</i>"
    return f'<div class="card sample"{cycle}><h3>{html.escape(heading)}</h3><p>{text}</p></div>'


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _size(count: int) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000  # type: ignore[assignment]
    return f"{count:.3g} GB"

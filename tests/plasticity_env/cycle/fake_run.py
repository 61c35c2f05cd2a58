"""A made-up record of an experiment, as the files of a run folder hold it: only to test what is drawn from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from plasticity_env.cycle.record import RunWriter
from plasticity_env.cycle.run_rows import (
    EvaluationRow,
    PhaseRow,
    PruningEvent,
    Sample,
    SignalsRow,
    Stabilisation,
    StepRow,
)

SIGNALS = ("entropy", "entropy_normalized", "gradient", "fisher", "magnitude", "activation")
PROMPTS = ("ROMEO:\nBut soft, what", "The king <b>said</b> & then")
NEWS = {
    "prune": "entropy 1.9 is above 1.5",
    "revive": "gradient at gate 0 is large",
    "grow": "share of the pruned heads",
}


def write_fake_run(
    folder: Path,
    *,
    layers: int = 4,
    heads: int = 4,
    cycles: int = 3,
    control: bool = True,
    status: str = "finished",
    warmup: int = 40,
    tuning: int = 30,
    seed: int = 0,
) -> Path:
    """Fill a folder with the record of a run that never took place.

    Args:
        folder: Where to; its subfolders are made.
        layers: Of the model.
        heads: Of a layer.
        cycles: Prune, grow and train this often.
        control: Also write rows of a control arm.
        status: Of the run.
        warmup: Steps of the warm-up.
        tuning: Steps of each cycle's training.
        seed: Of the numbers.

    Returns:
        The folder.
    """
    rng = np.random.default_rng(seed)
    total = layers * heads
    active = np.ones((layers, heads), bool)
    gates = np.ones((layers, heads))
    writer = RunWriter(folder)
    steps: list[StepRow] = []
    arms = ("experiment", "control") if control else ("experiment",)
    loss = dict.fromkeys(("experiment", "control"), 4.2)
    step = 0

    def evaluate(cycle: int, phase: str) -> None:
        for arm in arms:
            on = total if arm == "control" else int(active.sum())
            kept = 1 - 0.4 * (1 - on / total)
            hurt = 0.0 if arm == "control" else 1.4 * (1 - on / total) ** 1.5
            value = loss[arm] + hurt
            cost = 1e6 * kept, kept, on, 1 - on / total
            writer.evaluation(EvaluationRow(arm, cycle, phase, step, value, float(np.exp(value)), *cost, "test"))

    def train(cycle: int, phase: str, count: int) -> None:
        nonlocal step
        for _ in range(count):
            step += 1
            for arm in arms if cycle else ("experiment",):
                loss[arm] += (3.3 - loss[arm]) * 0.03
                noisy = loss[arm] + rng.normal(0, 0.08)
                norm = float(rng.gamma(3, 0.3))
                steps.append(StepRow(arm, cycle, phase, step, float(noisy), norm, 5e-5))
                writer.step(steps[-1])
        if not cycle:
            loss["control"] = loss["experiment"]

    def phase(cycle: int, name: str, first: int, seconds: float, **details: Any) -> None:
        writer.phase(PhaseRow(cycle, name, first, step, seconds, details))

    def measure(cycle: int, name: str) -> None:
        held = {}
        for index, signal in enumerate(SIGNALS):
            values = rng.gamma(1.5, 10.0 ** (-index), (layers, heads))
            held[signal] = (1 - np.exp(-values) if signal == "entropy_normalized" else values).tolist()
        writer.signals(SignalsRow(cycle, name, step, active.astype(int).tolist(), gates.tolist(), held))

    def edit(cycle: int, name: str, kind: str, chosen: np.ndarray) -> None:
        events = []
        for layer, head in np.argwhere(chosen):
            active[layer, head] = kind != "prune"
            gates[layer, head] = {"prune": 0.0, "revive": 1.0, "grow": 0.3}[kind]
            seen = {"entropy": float(rng.random() * 2), "fisher": float(rng.random() * 1e-3)}
            place = int(layer), int(head)
            events.append(PruningEvent(cycle, step, name, kind, *place, "entropy", seen, NEWS[kind]))
        writer.add_events(events)

    def sample(cycle: int, when: str, text: str) -> None:
        for prompt in PROMPTS:
            writer.add_sample(Sample(when, cycle, prompt, text))

    evaluate(0, "baseline")
    sample(0, "baseline", " light through yonder window breaks?\n\nJULIET:\nIt is the east.")
    train(0, "warmup", warmup)
    phase(0, "warmup", 0, 2.5, stabilised_at=max(warmup - 5, 1))
    evaluate(0, "warmup")
    for cycle in range(1, cycles + 1):
        measure(cycle, "analysis")
        phase(cycle, "analysis", step, 0.4, batches=10)
        order = rng.permutation(total).reshape(layers, heads)
        missing = max(1, round(0.3 * total)) - int((~active).sum())
        edit(cycle, "pruning", "prune", active & (order < np.sort(order[active])[max(missing, 1)]))
        phase(cycle, "pruning", step, 0.1, decider="entropy", pruned=max(missing, 1))
        evaluate(cycle, "pruning")
        sample(cycle, "pruned", f" the the of and the, the of {cycle}")
        measure(cycle, "measure")
        phase(cycle, "measure", step, 0.3)
        back = ~active & (order % 3 == 0)
        edit(cycle, "growth", "grow" if cycle % 2 else "revive", back)
        measure(cycle, "growth")
        phase(cycle, "growth", step, 0.2, strategy="importance", grown=int(back.sum()))
        evaluate(cycle, "growth")
        first = step
        train(cycle, "fine_tuning", tuning)
        gates[active] = 1.0
        phase(cycle, "fine_tuning", first, 3.1, steps=tuning)
        evaluate(cycle, "fine_tuning")
        evaluate(cycle, "evaluation")
        phase(cycle, "evaluation", step, 0.5)
        sample(cycle, "recovered", f" is my lord and well, {cycle}")

    losses = [row.loss for row in steps if row.phase == "warmup"]
    smoothed = [float(np.mean(losses[at : at + 10])) for at in range(0, len(losses), 10)]
    reason = "the loss improved by 0.4% over the last window, less than 1%"
    writer.stabilisation(Stabilisation(10, 0.01, losses, smoothed, max(warmup - 5, 1), reason))
    settings = {"model_name": "bard-gpt2-4x4", "dataset": "tiny_shakespeare", "pruning_strategy": "entropy"}
    about = {"command": "python scripts/run_neural_plasticity.py --cycles 3", "machine": "a laptop"}
    versions = {"torch": "2.13", "transformers": "5.23"}
    writer.config({"settings": {**settings, "cycles": cycles}, **about, "versions": versions, "status": status})
    writer.log("it began")
    writer.close()
    return folder

"""The phases of the plasticity cycle on two arms, and what they write down."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plasticity_env.cycle.apply import Edited, aged, events_of, prune_to
from plasticity_env.cycle.arms import SPLITS_SHOWN, Arm, ControlArm, RecordedControl, TrainedControl
from plasticity_env.cycle.bringing_back import bring_back, chosen_heads, share_of_heads
from plasticity_env.cycle.deciders import Decider, Decision, Situation, pruned_count
from plasticity_env.cycle.growth_trial import GrowthTrial, with_trial
from plasticity_env.cycle.record import RunWriter
from plasticity_env.cycle.run_rows import CONTROL, EXPERIMENT, SIGNALS, EvaluationRow, Sample, SignalsRow, StepRow
from plasticity_env.cycle.run_settings import REVIVE, ExperimentSettings
from plasticity_env.cycle.samples import prompt_ids, write_on
from plasticity_env.cycle.stabilisation import stabilisation
from plasticity_env.data.text import Split, TextSplits
from plasticity_env.model.flops import flop_table
from plasticity_env.model.loading import LoadedModel
from plasticity_env.signals.measure import HeadSignals
from plasticity_env.training import TrainStep

Details = dict[str, Any]
OnStep = Callable[[str, TrainStep], None]  # arm, step


class PlasticityCycle:
    """Both arms, the decider, and one method a phase, which `phase` calls by its name.

    Args:
        settings: What to do.
        loaded: The model, edited in place, and its tokenizer.
        text: Its text.
        decider: Decider that chooses heads.
        control_from: Folder of a run whose control arm is taken, or None to train one.

    Attributes:
        writer: Writer of the run's rows; set before the first phase.
        on_step: Called with the arm's name and each optimizer step.
    """

    writer: RunWriter

    def __init__(
        self,
        settings: ExperimentSettings,
        loaded: LoadedModel,
        text: TextSplits,
        decider: Decider,
        control_from: Path | None = None,
    ) -> None:
        self.settings, self.loaded, self.text, self.decider = settings, loaded, text, decider
        self.arm = Arm(loaded.model, text, settings)
        self.control: ControlArm | None = None  # before the warm-up is over: the same as the arm
        self.costs = flop_table(loaded.model, settings.max_length)
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.on_step: OnStep = lambda arm, done: None
        self._control_from = control_from
        self._decision = 0
        self._age = np.zeros(loaded.model.shape, dtype=np.int64)
        self._owed: float | None = None  # potential at the decision whose reward is still to be told
        self._waiting: Tensor | None = None  # growth that the decider asked for
        self._growth_reasons: dict[tuple[int, int], str] = {}  # and why
        self._warm_losses: list[float] = []

    @property
    def step(self) -> int:
        """Optimizer steps of the experiment arm."""
        return self.arm.trainer.taken

    def phase(self, cycle: int, phase: str) -> Details:
        """Go through a phase; returns what is to be told of it."""
        details: Details = getattr(self, f"_{phase}")(cycle)
        return details

    def _baseline(self, cycle: int) -> Details:
        self._sample("baseline", cycle)
        return {}

    def _warmup(self, cycle: int) -> Details:
        settings = self.settings
        window, threshold = settings.stabilisation_window, settings.stabilisation_threshold
        judged = stabilisation(self._warm_losses, window, threshold)
        try:
            while len(self._warm_losses) < settings.warmup_steps and judged.stabilised_at is None:
                self._train(cycle, "warmup", 1)
                if len(self._warm_losses) % window == 0:
                    judged = stabilisation(self._warm_losses, window, threshold)
        finally:
            judged = stabilisation(self._warm_losses, window, threshold)
            self.writer.stabilisation(judged)
        teacher = self.arm.teacher()
        self.arm.distil_from(teacher)
        self.control = self._new_control()
        return {"stabilised_at": judged.stabilised_at, "steps": len(self._warm_losses), "reason": judged.reason}

    def _analysis(self, cycle: int) -> Details:
        signals = self._note_signals(cycle, "analysis")
        return {"tokens": signals.tokens, "kernel": str(signals.kernel), "loss": signals.loss}

    def _pruning(self, cycle: int) -> Details:
        level = self.settings.level(cycle)
        done = self._decide(cycle, "pruning", level)
        pruned = int((~self.arm.model.active).sum())
        return {
            "decider": self.decider.name,
            "level": level,
            "wanted": pruned_count(level, self.arm.model.active),
            "pruned_heads": pruned,
            "repair": self.settings.repair,
            **done.details(),
        }

    def _measure(self, cycle: int) -> Details:
        signals = self._note_signals(cycle, "measure")
        self._sample("pruned", cycle)
        return {"loss": signals.loss}

    def _growth(self, cycle: int) -> Details:
        model, settings = self.arm.model, self.settings
        if not settings.adaptive:
            return {"grown": 0, "reason": "compressed mode: what is pruned never comes back"}
        if self.decider.grows:
            grown, trial = self._grow_asked(cycle, "growth", settings.gate_warmup_steps)
            return {"grown": int(grown.sum()), "reason": with_trial(f"as {self.decider.name} asked", trial)}
        heads = model.active[:, : model.heads]  # blocks of MLP neurons come back by a decision alone
        pruned = int((~heads).sum())
        count = round(settings.growth_ratio * pruned)
        if count == 0:
            return {"grown": 0, "reason": f"growth_ratio {settings.growth_ratio:g} of {pruned} pruned heads is none"}
        signals, gates = self._signals(), settings.gate_warmup_steps
        way = partial(share_of_heads, self.arm, count, self.generator)
        back, trial = bring_back(self.arm, way, self.generator, gates)
        revives = settings.growth_init == REVIVE
        who = "revival" if revives else settings.growth_strategy
        reasons = {}
        for layer, head in back.nonzero().tolist():
            gain = float(signals.revive[layer, head])
            chosen = f"among the {count} of {pruned} pruned heads of largest -dL/dgate: {gain:.3g} nats"
            said = chosen if revives else f"chosen by {who} among {pruned} pruned heads"
            reasons[layer, head] = with_trial(said, trial)
        none = torch.zeros_like(back)
        edits = (none, back, none) if revives else (none, none, back)
        self._note(Decision(*edits, reasons), signals, cycle, "growth", who)
        told: Details = {"revived": int(back.sum())} if revives else {"strategy": who}
        if trial is not None:
            told["trial"] = str(trial)
        return {"grown": 0 if revives else int(back.sum()), **told, "pruned_before": pruned}

    def _fine_tuning(self, cycle: int) -> Details:
        steps, every = self.settings.training_steps, self.settings.decision_every
        decisions, cost, trials = 0, 0.0, []
        for start in range(0, steps, every or max(1, steps)):
            if start:
                before = self.arm.loss("test")
                slots = self.arm.model.active
                level = self.settings.level(cycle) if self.decider.grows else int((~slots).sum()) / slots.numel()
                self._decide(cycle, "fine_tuning", level)
                _, trial = self._grow_asked(cycle, "fine_tuning", self.settings.gate_warmup(steps - start))
                trials += [] if trial is None else [str(trial)]
                decisions += 1
                with self.arm.model.grown_gates():
                    cost += max(0.0, self.arm.loss("test") - before)
            self._train(cycle, "fine_tuning", min(every or steps, steps - start))
        told: Details = {"decisions_cost": cost} if decisions else {}
        if trials:
            told["trials"] = trials
        return {"steps": steps, "decisions": decisions, **told}

    def _evaluation(self, cycle: int) -> Details:
        self._settle()
        self._note_signals(cycle, "evaluation")
        self._sample("recovered", cycle)
        return {}

    # -- parts of phases -------------------------------------------------------------------------------------------------

    def _train(self, cycle: int, phase: str, steps: int) -> None:
        """Optimizer steps of both arms in turn."""

        def note(arm: str) -> Callable[[TrainStep], None]:
            def write(done: TrainStep) -> None:
                row = StepRow(arm, cycle, phase, done.step, done.loss, done.grad_norm, done.learning_rate)
                self.writer.step(row)
                if phase == "warmup":
                    self._warm_losses.append(done.loss)
                self.on_step(arm, done)

            return write

        for _ in range(steps):
            self.arm.train(1, note(EXPERIMENT))
            if self.control is not None:
                self.control.train(1, note(CONTROL))

    def _decide(self, cycle: int, phase: str, level: float) -> Edited:
        """Let the decider prune and revive; what it wants to grow waits for `_grow_asked`."""
        self._settle()
        self._owed = self._potential()
        control = self._control_loss("reward")
        done = prune_to(level, self.arm, self.decider, lambda share: self._situation(cycle, share), control)
        self._waiting = done.waiting
        self._growth_reasons = dict(done.decisions[-1][0].reasons) if done.decisions else {}
        for decision, signals in done.decisions:
            kept = Decision(decision.prune, decision.revive, torch.zeros_like(decision.grow), decision.reasons)
            self._note(kept, signals, cycle, phase, self.decider.name)
        self._decision += 1
        return done

    def _grow_asked(self, cycle: int, phase: str, gate_steps: int) -> tuple[Tensor, GrowthTrial | None]:
        mask, self._waiting = self._waiting, None
        model = self.arm.model
        if mask is None or not self.settings.adaptive or not bool((mask & ~model.active).any()):
            return torch.zeros_like(model.active), None
        signals = self._signals()
        way = partial(chosen_heads, self.arm, mask, self.generator, signals.fisher)
        grown, trial = bring_back(self.arm, way, self.generator, gate_steps)
        if bool((mask & ~grown).any()):
            self.decider.taken_back(mask & ~grown)
        none = torch.zeros_like(grown)
        said, plain = self._growth_reasons, f"{self.decider.name} chose it"
        heads = [(layer, head) for layer, head in grown.nonzero().tolist()]
        reasons = {where: with_trial(said.get(where, plain), trial) for where in heads}
        self._note(Decision(none, none, grown, reasons), signals, cycle, phase, self.decider.name)
        return grown, trial

    def _note(self, decision: Decision, signals: HeadSignals, cycle: int, phase: str, who: str) -> None:
        self._age = aged(self._age, decision)
        self.writer.add_events(events_of(decision, signals, cycle, phase, self.step, who))

    def _situation(self, cycle: int, level: float) -> Situation:
        settings = self.settings
        online = math.ceil(settings.training_steps / settings.decision_every) - 1 if settings.decision_every else 0
        return Situation(
            model=self.arm.model,
            signals=self._signals(),
            active=self.arm.model.active,
            cycle=cycle,
            cycles=settings.cycles,
            step=self.step,
            level=level,
            text=self.text,
            generator=self.generator,
            costs=self.costs,
            loss=self.arm.loss("reward"),
            control_loss=self._control_loss("reward"),
            age=self._age,
            decision=self._decision,
            decisions=settings.cycles * (1 + max(0, online)),
            flop_price=settings.flop_price,
            repairs=settings.repair != "none",
            trains=settings.training_steps > 0,
            reconsider=settings.reconsider,
        )

    def _potential(self) -> float:
        dense = self.costs.total(torch.ones_like(self.arm.model.active))
        cost = math.log(self.costs.total(self.arm.model.active) / dense)
        return self._control_loss("reward") - self.arm.loss("reward") - self.settings.flop_price * cost

    def _settle(self) -> None:
        """Tell the decider what its last decision earned."""
        if self._owed is not None:
            self.decider.learn(self._potential() - self._owed)
            self._owed = None

    def _control_loss(self, split: Split) -> float:
        return self.arm.loss(split) if self.control is None else self.control.loss(split)

    def _signals(self) -> HeadSignals:
        return self.arm.signals(self.decider.needs_obs, self.decider.needs_residual, self.decider.needs_signals)

    def _note_signals(self, cycle: int, phase: str) -> HeadSignals:
        signals, model = self._signals(), self.arm.model
        grids = {name: getattr(signals, name).tolist() for name in SIGNALS}
        active, gates = model.active.int().tolist(), model.gates.tolist()
        self.writer.signals(SignalsRow(cycle, phase, self.step, active, gates, grids))
        return signals

    def evaluate(self, cycle: int, phase: str) -> dict[str, float]:
        """Write what both arms are worth on reward and test text; returns the same by name, for tracking.

        Heads that grow count in full, in FLOPs and in perplexity: their gates are open while they are judged.
        """
        with self.arm.model.grown_gates():
            return self._evaluate(cycle, phase)

    def _evaluate(self, cycle: int, phase: str) -> dict[str, float]:
        model = self.arm.model
        heads, dense = model.active.numel(), self.costs.total(torch.ones_like(model.active))
        flops, active = self.costs.total(model.active), int(model.active.sum())
        found = {"sparsity": 1 - active / heads, "flops_kept": flops / dense, "active_heads": float(active)}
        for split in SPLITS_SHOWN:
            for arm, loss, cost, left in (
                (EXPERIMENT, self.arm.loss(split), flops, active),
                (CONTROL, self._control_loss(split), dense, heads),
            ):
                ppl = math.exp(min(loss, 700.0))
                at = (arm, cycle, phase, self.step)
                self.writer.evaluation(EvaluationRow(*at, loss, ppl, cost, cost / dense, left, 1 - left / heads, split))
                found[f"{arm}/{split}_ppl"] = ppl
        return found

    def _sample(self, when: str, cycle: int) -> None:
        if self.settings.sample_tokens:
            tokenizer = self.loaded.tokenizer
            prompt = prompt_ids(tokenizer, self.settings.prompt, self.text.blocks("test"))
            text = write_on(self.arm.model, tokenizer, prompt, self.settings.sample_tokens, self.settings.seed)
            self.writer.add_sample(Sample(when, cycle, str(tokenizer.decode(prompt[0])), text))

    def _new_control(self) -> ControlArm:
        if self._control_from is not None:
            return RecordedControl(self._control_from)
        distillation = self.arm.trainer.distillation
        return TrainedControl(self.arm, None if distillation is None else distillation.teacher)  # type: ignore[arg-type]

    # -- state ---------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything but the model, in tensors and plain containers."""
        distillation = self.arm.trainer.distillation
        return {
            "decision": self._decision,
            "age": self._age.tolist(),
            "owed": self._owed,
            "waiting": self._waiting,
            "growth_reasons": [[*where, reason] for where, reason in self._growth_reasons.items()],
            "warm_losses": self._warm_losses,
            "generator": self.generator.get_state(),
            "trainer": self.arm.trainer.state_dict(),
            "control": None if self.control is None else self.control.state_dict(),
            "control_from": None if self._control_from is None else str(self._control_from),
            "teacher": None if distillation is None else distillation.teacher.state_dict(),
            "decider": self.decider.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], branch: bool = False) -> None:
        """Go on from `state_dict`, on the model that belongs to it.

        Args:
            state: What it returned.
            branch: Another run goes on from the end of this one's warm-up: its decider and control arm are its own.
        """
        self._decision = state["decision"]
        self._age = np.array(state["age"], dtype=np.int64)
        self._owed, self._waiting = state["owed"], state["waiting"]
        self._growth_reasons = {(layer, head): reason for layer, head, reason in state["growth_reasons"]}
        self._warm_losses = list(state["warm_losses"])
        self.generator.set_state(state["generator"])
        if state["teacher"] is not None:
            teacher = self.arm.teacher()
            assert teacher is not None
            teacher.load_state_dict(state["teacher"])
            self.arm.distil_from(teacher)
        self.arm.trainer.load_state_dict(state["trainer"])
        if state["control"] is not None:
            self.control = self._new_control()
            if not branch:
                self.control.load_state_dict(state["control"])
        if not branch:
            self.decider.load_state_dict(state["decider"])

"""A run of the plasticity cycle in a folder: warm up, then measure, prune, grow and learn, beside a control arm.

Each phase ends on disk: rows, events, a checkpoint and the pages. A run that is cut shows everything up to there, and
`NeuralPlasticityExperiment.resume` goes on from the last phase that was over, with the same numbers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

from plasticity_env.common import cli
from plasticity_env.common.at_work import at_work_in
from plasticity_env.common.errors import InputError
from plasticity_env.common.progress import Progress
from plasticity_env.common.tracking import Tracker
from plasticity_env.common.values import user_path
from plasticity_env.cycle import run_checkpoint as checkpoint
from plasticity_env.cycle.deciders import Decider
from plasticity_env.cycle.page.refresh import Pages
from plasticity_env.cycle.phases import PlasticityCycle
from plasticity_env.cycle.record import RunRecord, RunWriter
from plasticity_env.cycle.removal import remove
from plasticity_env.cycle.run_checks import check_run, refuse_used, settings_of, strategy_decider
from plasticity_env.cycle.run_rows import CONTROL, EXPERIMENT, PhaseRow
from plasticity_env.cycle.run_settings import ExperimentSettings, new_run_path
from plasticity_env.cycle.summary import CYCLE_PHASES, summarise
from plasticity_env.data.text import TextSplits
from plasticity_env.model.checkpoints import save_plastic
from plasticity_env.model.loading import LoadedModel, load_model
from plasticity_env.strategies.neuron_order import order_neurons
from plasticity_env.training import TrainStep

Say = Callable[[str], None]
START = ((0, "baseline"), (0, "warmup"))
WARM_START = "warm"  # the checkpoint that others branch from


class NeuralPlasticityExperiment:
    """One run of the cycle; nothing is written before `run`.

    Args:
        settings: What to do.
        folder: A new or empty folder; None: one under ``runs/neural_plasticity``.
        decider: Who decides; None: the settings' pruning strategy.
        say: Called with a sentence after each phase.
        loaded: A model instead of ``settings.model_name``; it is edited in place.
        text: A text instead of ``settings.dataset``.
        progress: Show how far the training is, on standard error.
        pages: Write pages and pictures.
        keep_warm_start: Keep the checkpoint at the warm-up's end, for `branch`.
        control_from: Folder of a run with the same training, whose control arm is taken instead of trained.

    Attributes:
        folder: Folder of the run.
        cycle: The two arms and their phases.
        plan: (cycle, phase) in order.
        before_finished: Called at the end, before the run says that it is finished: writes what belongs to it.

    Raises:
        InputError: A model, text or decider that cannot be used, or a folder that is in use.
    """

    def __init__(
        self,
        settings: ExperimentSettings,
        folder: str | Path | None = None,
        decider: Decider | None = None,
        say: Say | None = None,
        *,
        loaded: LoadedModel | None = None,
        text: TextSplits | None = None,
        progress: bool = True,
        pages: bool = True,
        keep_warm_start: bool = False,
        control_from: Path | None = None,
    ) -> None:
        self.settings = settings
        self.folder = new_run_path() if folder is None else user_path(folder, "a run folder")
        decider = decider or strategy_decider(settings)
        self.loaded = loaded or load_model(
            settings.model_name, mode=settings.pruning_mode, device=settings.device, mlp_blocks=settings.mlp_blocks
        )
        self.text = text or settings.load(self.loaded.tokenizer)
        check_run(self.loaded, self.text, settings)
        if settings.mlp_blocks:
            order_neurons(self.loaded.model, self.text, settings.neuron_order, settings.batch_size)
        self.cycle = PlasticityCycle(settings, self.loaded, self.text, decider, control_from)
        self.plan = [*START, *((c, phase) for c in range(1, settings.cycles + 1) for phase in CYCLE_PHASES)]
        self._say, self._progress, self._keep_warm_start = say, progress, keep_warm_start
        self._next = 0
        self._position: dict[str, int] | None = None  # of the record, where this run goes on
        self._finished = self._started = False
        self.before_finished: Callable[[], None] | None = None
        self._writer: RunWriter
        self._tracker: Tracker
        self._pages = Pages(self.folder, pages)
        self._bar: Progress | None = None

    # -- ways to begin -----------------------------------------------------------------------------------------------

    @classmethod
    def resume(
        cls,
        folder: str | Path,
        decider: Decider | None = None,
        say: Say | None = None,
        *,
        text: TextSplits | None = None,
        progress: bool = True,
        pages: bool = True,
        keep_warm_start: bool = False,
    ) -> NeuralPlasticityExperiment:
        """Take a run up again where its last whole phase ended; call `run` on what is returned.

        Args:
            folder: Folder of the run. One that is finished is only read.
            decider: A fresh decider like the one that the run had, unless that was a strategy; what it remembers is in
                the checkpoint.
            say, text, progress, pages, keep_warm_start: The same as for a new run.

        Raises:
            InputError: No run there, or none that can go on.
        """
        folder = user_path(folder, "a run folder")
        settings = settings_of(folder)
        if RunRecord.read(folder).config.get("status") == "finished" and not checkpoint.has_checkpoint(folder):
            run = cls(settings, folder, decider, say, text=text, progress=progress, pages=pages)
            run._finished = True
            return run
        with at_work_in(folder):
            saved = checkpoint.load(folder, settings.device)
        source = saved.state["cycle"]["control_from"]
        run = cls(
            settings,
            folder,
            decider,
            say,
            loaded=saved.loaded,
            text=text,
            progress=progress,
            pages=pages,
            keep_warm_start=keep_warm_start,
            control_from=None if source is None else user_path(source),
        )
        run._take_up(saved, branch=False)
        return run

    @classmethod
    def branch(
        cls,
        warm: str | Path,
        settings: ExperimentSettings,
        folder: str | Path,
        decider: Decider | None = None,
        say: Say | None = None,
        *,
        text: TextSplits | None = None,
        progress: bool = True,
        pages: bool = True,
    ) -> NeuralPlasticityExperiment:
        """A run from the end of another's warm-up that prunes or grows otherwise.

        The control arm is taken from the other's record; with ``decision_every`` it is trained again, since decisions between
        phases ask for losses that no record holds.

        Args:
            warm: Folder of a finished run with the same training that kept its warm start.
            settings, folder, decider, say, text, progress, pages: The same as for a new run.

        Raises:
            InputError: No warm start there, or the folder is in use.
        """
        warm, folder = user_path(warm, "a run folder"), user_path(folder, "a run folder")
        refuse_used(folder)
        saved = checkpoint.load(warm, settings.device, WARM_START)
        run = cls(
            settings,
            folder,
            decider,
            say,
            loaded=saved.loaded,
            text=text,
            progress=progress,
            pages=pages,
            control_from=None if settings.decision_every else warm,
        )
        checkpoint.copy_record(warm, folder)
        run._take_up(saved, branch=True)
        return run

    def _take_up(self, saved: checkpoint.Saved, branch: bool) -> None:
        self._next, self._position = saved.state["next"], saved.position
        self.cycle.load_state_dict(saved.state["cycle"], branch)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self._finished

    @property
    def started(self) -> bool:
        """Whether `run` has begun to write in the folder."""
        return self._started

    # -- running -----------------------------------------------------------------------------------------------------

    def run(self) -> RunRecord:
        """Go through all phases that are left.

        Returns:
            The record; it lies in `folder`.

        Raises:
            InputError: The folder is in use, or the model diverged; what was measured is on disk.
            KeyboardInterrupt: Ctrl-C; what was measured is on disk, pages included.
        """
        if self._finished:
            return RunRecord.read(self.folder)
        with at_work_in(self.folder):
            return self._run()

    def _run(self) -> RunRecord:
        if self._position is None:
            refuse_used(self.folder)
        elif checkpoint.position_of(self.folder) not in (None, self._position):
            raise InputError(f"the run in {str(self.folder)!r} has gone on meanwhile: resume it again")
        try:
            self._open()
            with self._bar or nullcontext():
                for index in range(self._next, len(self.plan)):
                    self._phase(index)
            self._finish()
        except BaseException as error:
            self._cut(error)
            raise
        self._finished = True
        return RunRecord.read(self.folder)

    def _open(self) -> None:
        """Begin the record, or rewind it to the checkpoint that this run goes on from."""
        self._writer = self.cycle.writer = RunWriter(self.folder)
        self._started = True
        if self._position is not None:
            self._writer.rewind(self._position)
            checkpoint.forget_older(self.folder)
        config = {**self._head(), "status": "running", "settings": self.settings.to_json()}
        self._tracker = Tracker(self.folder, config, self.settings.tracking, resume=self._position is not None)
        self._writer.config(config)
        self.cycle.on_step = self._on_step
        total = self.settings.warmup_steps + self.settings.cycles * self.settings.training_steps
        self._bar = Progress("training", total, start=self.cycle.step) if self._progress and total else None
        if self._position is not None and not checkpoint.has_checkpoint(self.folder):
            self._checkpoint("start")  # of a branch: from now on it can be resumed
        if self._position is not None and self._next < len(self.plan):
            self._tell(f"goes on at step {self.cycle.step} with {_title(*self.plan[self._next])}")

    def _phase(self, index: int) -> None:
        cycle, phase = self.plan[index]
        started, first = time.perf_counter(), self.cycle.step

        def row(details: dict[str, Any]) -> PhaseRow:
            return PhaseRow(cycle, phase, first, self.cycle.step, time.perf_counter() - started, details)

        self._writer.log(f"{_title(cycle, phase)} begins at step {first}")
        try:
            details = self.cycle.phase(cycle, phase)
        except KeyboardInterrupt:
            self._writer.phase(row({"interrupted": True}))
            raise
        if phase != "baseline":
            self._writer.phase(row(details))
        found = self.cycle.evaluate(cycle, phase)
        if phase in ("pruning", "fine_tuning"):
            active = self.loaded.model.active.int().tolist()
            self._writer.cycle_file(phase, cycle, {**asdict(row(details)), "after": found, "active": active})
        self._tracker.log(found, self.cycle.step)
        units = "units" if self.settings.mlp_blocks else "heads"
        self._tell(
            f"{_title(cycle, phase)}: step {self.cycle.step}, {found['active_heads']:.0f} {units}, test perplexity "
            f"{found[f'{EXPERIMENT}/test_ppl']:.2f} (control {found[f'{CONTROL}/test_ppl']:.2f})"
        )
        self._writer.summary(self._summary())
        self._next = index + 1
        self._checkpoint(f"{cycle}_{phase}")
        if phase == "warmup" and self._keep_warm_start:
            checkpoint.save(self.folder, self.loaded, self._state(), self._writer.position(), WARM_START, keep=True)
        self._pages.update()

    def _on_step(self, arm: str, done: TrainStep) -> None:
        self._tracker.log({f"{arm}/train_loss": done.loss, f"{arm}/grad_norm": done.grad_norm}, done.step)
        if self._bar and arm == EXPERIMENT:
            self._bar.update(min(done.step, self._bar.total), perplexity=math.exp(min(done.loss, 700.0)))

    def _finish(self) -> None:
        settings, summary = self.settings, self._summary()
        if not settings.adaptive:
            ids = self.text.blocks("test")[: settings.batch_size]
            compact = remove(self.loaded, ids, self.folder / "models" / "compact").to_json()
            summary["compact"] = compact
            self._tell(
                f"removed for real: {compact['flops_kept']:.1%} of the FLOPs, {compact['parameters_kept']:.1%} of the "
                f"parameters, {compact['time_kept']:.1%} of the forward time are left"
            )
        if settings.save_model:
            final = self.folder / "models" / "final"
            save_plastic(self.loaded.model, final, self.loaded.tokenizer, self.loaded.name)
            self._tracker.artifact("model", final, "model")
        self._writer.summary(summary)
        if self.before_finished:
            self.before_finished()
        self._pages.draw()
        self._pages.track(self._tracker, self.cycle.step)
        self._tracker.close()
        self._writer.status("finished", finished=_now())
        self._pages.finish()  # all other files are there now, so that the page lists them
        self._writer.close()
        # last, so that a run that is killed in between is finished again from it
        checkpoint.forget(self.folder, keep=WARM_START if self._keep_warm_start else None)

    def _cut(self, error: BaseException) -> None:
        """Leave everything that was measured in order."""
        if not self._started:
            return
        stopped = isinstance(error, KeyboardInterrupt)
        said = "stopped" if stopped else f"failed: {type(error).__name__}: {error}"
        with suppress(
            OSError
        ):  # the disk is full, or no longer writable: what is on it stays in order, and the error goes on
            self._writer.log(said)
            self._writer.status("stopped" if stopped else "failed", error=said, finished=_now())
            self._writer.summary(self._summary())
            self._pages.update(final=True)
        with suppress(OSError):
            if "_tracker" in vars(self):
                self._tracker.close(failed=True)
        self._writer.close()

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _summary(self) -> dict[str, Any]:
        return {**self._head(), **summarise(RunRecord.read(self.folder))}

    def _head(self) -> dict[str, Any]:
        """What ``config.json`` and ``metrics.json`` begin with."""
        settings = self.settings
        return {
            "model": self.loaded.name,
            "dataset": self.text.name,
            "decider": self.cycle.decider.name,
            "pruning_level": settings.pruning_level,
            "pruning_mode": settings.pruning_mode,
            "seed": settings.seed,
            "command": cli.command(),
            "machine": cli.machine(),
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        }

    def _state(self) -> dict[str, Any]:
        return {"next": self._next, "cycle": self.cycle.state_dict()}

    def _checkpoint(self, name: str) -> None:
        if self.settings.checkpoints:
            checkpoint.save(self.folder, self.loaded, self._state(), self._writer.position(), name)

    def _tell(self, sentence: str) -> None:
        self._writer.log(sentence)
        if self._say:
            self._say(sentence)


def _title(cycle: int, phase: str) -> str:
    return f"cycle {cycle} {phase}" if cycle else phase


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")

"""A run of the plasticity cycle in which a network decides and keeps learning, and the files that it leaves."""

from __future__ import annotations

import json
import pickle
import sys
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from plasticity_env.agents.online.online_arguments import OnlineRunConfig
from plasticity_env.agents.online.online_decider import OnlineDecider
from plasticity_env.common.arguments import fill, plain
from plasticity_env.common.digests import checked_line, load_archive, read_rows, sealed, unsealed
from plasticity_env.common.errors import InputError
from plasticity_env.common.files import replace_file, write_text
from plasticity_env.cycle.experiment import NeuralPlasticityExperiment
from plasticity_env.cycle.record import RunRecord
from plasticity_env.cycle.run_checks import refuse_used
from plasticity_env.cycle.run_settings import new_run_path
from plasticity_env.growth.settling import settle_gates
from plasticity_env.model.checkpoints import save_plastic

WEIGHTS, FOLDER, HISTORY, MODEL, ARGUMENTS = (
    "controller.pt",
    "controller",
    "metrics/controller.jsonl",
    "pruned_model",
    "controller_arguments.json",
)

DECISION, LESSON = (
    ("prune", "revive", "grow", "policy_entropy"),
    ("reward", "baseline", "advantage"),
)  # what is tracked of them


def run_online(config: OnlineRunConfig) -> tuple[RunRecord, OnlineDecider]:
    """Run the cycle, or go on with a run, and write its folder.

    Args:
        config: Arguments.

    Returns:
        The record (its ``folder`` says where), and the controller as it is at the end.

    Raises:
        InputError: Arguments that cannot be used; nothing is written.
        KeyboardInterrupt: Ctrl-C; what was measured is on disk, the controller and the model included.
    """
    if config.resume is not None:
        config = _read_arguments(config)
        assert config.resume is not None
        decider = config.decider()
        run = NeuralPlasticityExperiment.resume(config.resume, decider, _say)
    else:
        decider = config.decider()
        if config.output_dir is not None:
            refuse_used(config.output_dir)
        run = NeuralPlasticityExperiment(config.settings(), config.output_dir or new_run_path(), decider, _say)
    run.program = "adaptive"
    files = _Files(run, config)
    if run.finished:
        files.read(decider)
        return run.run(), decider
    decider.on_change = files.update
    run.before_finished = lambda: files.close(decider)
    try:
        return run.run(), decider
    except BaseException:
        with suppress(OSError):  # where the disk is full, that error is told
            files.close(decider)
        raise


class _Files:
    """What an online run adds to the folder of an experiment."""

    def __init__(self, run: NeuralPlasticityExperiment, config: OnlineRunConfig) -> None:
        self.run, self.folder, self.config = run, run.folder, config
        self._said = 0

    def update(self, decider: OnlineDecider) -> None:
        """Called after each decision and lesson."""
        if not self._said:
            text = json.dumps(sealed(plain(replace(self.config, resume=None, output_dir=None))), indent=1)
            write_text(self.folder / ARGUMENTS, text + "\n")
        self._said += 1
        last = decider.history[-1]
        sentence = f"step {last['step']}: paid {last['reward']:+.4f} nats" if "reward" in last else _decided(last)
        self.run.cycle.writer.log(f"controller, {sentence}")
        if self.config.verbose:
            for line in [sentence, *([] if "reward" in last else decider.edits)]:
                _say(f"  {line}")
        told = LESSON if "reward" in last else DECISION
        self.run.log({f"controller/{name}": float(last[name]) for name in told})
        self._write(decider)

    def close(self, decider: OnlineDecider) -> None:
        """Keep controller and model, where the run came to write in its folder."""
        if not self.run.started:
            return
        self._write(decider)
        decider.learner.controller.save(self.folder / FOLDER)
        loaded = self.run.loaded
        settle_gates(loaded.model)  # a run that is cut may be within a warm-up
        save_plastic(loaded.model, self.folder / MODEL, loaded.tokenizer, loaded.name)

    def read(self, decider: OnlineDecider) -> None:
        """Make a controller what it was at the end of a run that is finished.

        Raises:
            InputError: If its files are missing or damaged.
        """
        try:
            weights = load_archive(self.folder / WEIGHTS)
            decider.learner.network.load_state_dict(weights)
            decider.history = read_rows(self.folder / HISTORY)
        except (OSError, InputError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
            raise InputError(f"{str(self.folder)!r} holds a run without its controller ({error})") from error

    def _write(self, decider: OnlineDecider) -> None:
        weights = {name: value.detach().cpu() for name, value in decider.learner.network.state_dict().items()}
        replace_file(self.folder / WEIGHTS, lambda path: torch.save(weights, path))
        write_text(self.folder / HISTORY, "".join(checked_line(entry) + "\n" for entry in decider.history))


def _read_arguments(config: OnlineRunConfig) -> OnlineRunConfig:
    """The arguments that a run was started with; those of the command line where it made no decision yet."""
    assert config.resume is not None
    path = config.resume / ARGUMENTS
    if not path.is_file():
        return config
    try:
        values = unsealed(dict(json.loads(path.read_text(encoding="utf-8"))), path)
        # as all runs began before there was a choice, and when heads were all that is pruned
        values.setdefault("from_scratch", values.get("controller") is None)
        for name, value in (("mlp_blocks", 0), ("neuron_order", "stored"), ("text_split", "leading")):
            values.get("experiment", values).setdefault(name, value)
        begun = fill(OnlineRunConfig(), values, str(path))
        return replace(begun, resume=config.resume, verbose=config.verbose)
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{str(path)!r} cannot be read ({error}): the run in its folder cannot be resumed") from error


def _decided(entry: dict[str, Any]) -> str:
    edits = ", ".join(
        f"{entry[name]} {done}" for name, done in (("prune", "pruned"), ("revive", "revived"), ("grow", "grown"))
    )
    return f"step {entry['step']}: {entry['bounds']}; {edits}, policy entropy {entry['policy_entropy']:.3f} nats a head"


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)

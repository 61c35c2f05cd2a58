"""The main job in one go: train the shipped controller on, compare both with the rules on unseen text, write a page."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from rich.console import Console

from plasticity_env import controllers
from plasticity_env.agents.evaluation.compare_config import CompareConfig
from plasticity_env.agents.evaluation.comparison import compare, prepare
from plasticity_env.agents.evaluation.dashboard import write_dashboard
from plasticity_env.agents.evaluation.demo_config import DemoConfig
from plasticity_env.agents.evaluation.learning_curve import learning_curve_png
from plasticity_env.agents.training.agent import ENVIRONMENTS
from plasticity_env.agents.training.train_config import TrainConfig
from plasticity_env.agents.training.train_run import train
from plasticity_env.common import cli
from plasticity_env.common.arguments import fill
from plasticity_env.common.at_work import at_work_in
from plasticity_env.common.digests import read_rows
from plasticity_env.common.errors import InputError
from plasticity_env.common.tracking import new_run_folder
from plasticity_env.controllers import ANNController
from plasticity_env.envs.settings import bounds

TRAINED = "ann (trained here)"


def demo(config: DemoConfig) -> Path:
    """Train, compare, draw.

    Args:
        config: Arguments.

    Returns:
        The run folder: ``training/`` (JSONL, TensorBoard, W&B, controller), ``comparison/``, ``held_out/`` and
        ``held_out_units/``, ``dashboard.html``.
    """
    plan = config.training()
    trained_on = cli.words(plan.model_name)
    if config.held_out_model in trained_on:
        raise InputError(
            f"held_out_model {config.held_out_model!r} is trained on: choose one that is not in {trained_on}"
        )
    comparisons = {"comparison": config.compare}
    if config.held_out_model:
        unseen = config.held_out if config.held_out.controllers else config.compare
        comparisons["held_out"] = fill(unseen, {"model_name": config.held_out_model})
        if config.held_out_units.controllers:
            comparisons["held_out_units"] = fill(config.held_out_units, {"model_name": config.held_out_model})
    for comparison in comparisons.values():
        prepare(comparison)  # fails here rather than after the training
    with at_work_in(config.folder):
        return _demo(config, plan, comparisons)


def _demo(config: DemoConfig, plan: TrainConfig, comparisons: dict[str, CompareConfig]) -> Path:
    folder = config.folder or new_run_folder("demo")
    console = Console()
    started = time.perf_counter()
    console.rule(f"1. Training {'a network from zero' if config.from_scratch else 'the shipped controller on'}")
    training = train(replace(plan, output_dir=folder / "training"))
    seconds = time.perf_counter() - started
    frames = episode_frames(training / "controller", plan, config.compare.settings.model_name)
    page = write_demo_page(config, folder, seconds, frames, running=True)
    print(f"first picture: {page}")
    trained = f",{TRAINED}={training / 'controller'}"  # ranks heads alone
    console.rule("2. Controllers compared on plays that none of them saw")
    for name, comparison in comparisons.items():
        players = comparison.controllers + ("" if name == "held_out_units" else trained)
        compare(
            replace(comparison, controllers=players, output_dir=folder / name),
            lambda: write_demo_page(config, folder, seconds, frames, running=True),
        )
    write_demo_page(config, folder, seconds, frames)
    console.rule("3. Done")
    print(conclusion({name: _results(folder / name) for name in comparisons}))
    print(f"Open {page} in a browser.")
    return folder


def conclusion(found: dict[str, dict[str, Any]]) -> str:
    """What was compared, and who won by how much, in two sentences.

    Args:
        found: What each comparison wrote.
    """
    first = next(iter(found.values()))
    names = dict.fromkeys(row["controller"] for row in first["rows"])
    models = " and ".join(dict.fromkeys(results["model"] for results in found.values()))
    judged = "judged by the rise of the loss on test text that none of them read"
    compared = f"{len(names)} controllers pruned {models} and were {judged}."
    who = "; ".join(verdict(results) for results in found.values())
    return f"{compared}\n{who[0].upper()}{who[1:]}."


def write_demo_page(
    config: DemoConfig, folder: Path, seconds: float, frames: list[tuple[str, np.ndarray]], running: bool = False
) -> Path:
    """Write ``dashboard.html`` and ``learning_curve.png`` from what the training and the comparisons left in the run folder.

    Args:
        config: Arguments of the demo.
        folder: The run folder.
        seconds: How long the training took.
        frames: Captions and (H, W, 3) uint8 pictures of an episode.
        running: Whether more is to come.

    Returns:
        The page.
    """
    places = ("comparison", "held_out", "held_out_units")
    found = {name: _results(folder / name) for name in places if (folder / name / "results.json").is_file()}
    results = found.get("comparison")
    rows = read_rows(folder / "training" / "metrics.jsonl")
    learning_curve_png(rows, folder / "learning_curve.png")
    page = folder / "dashboard.html"
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path != page
        and path.suffix in (".json", ".jsonl", ".png", ".txt", ".yaml", ".safetensors")
        and "wandb" not in path.relative_to(folder).parts
    )
    write_dashboard(
        page,
        title="plasticity-env demo",
        results=results,
        training=rows,
        frames=frames,
        summary=_summary(config.training(), found, seconds),
        files=files,
        headline=conclusion(found) if found else "",
        running=running,
    )
    return page


def episode_frames(controller: Path, config: TrainConfig, model: str) -> list[tuple[str, np.ndarray]]:
    """Pictures of one episode that a saved controller plays freely at the middle price (on HeadRank: at the middle share).

    Args:
        controller: Folder of the controller.
        config: Configuration of the training; gives the environment's arguments.
        model: Name of the model that is pruned.

    Returns:
        Captions and (H, W, 3) uint8 pictures, the dense model first.
    """
    player = controllers.load(controller)
    env: gym.Env[Any, Any] = gym.make(
        ENVIRONMENTS[config.env], render_mode="rgb_array", **config.environment(model).kwargs()
    )
    price = math.sqrt(math.prod(bounds(config.settings.flop_price)))
    options, at = {"flop_price": price}, f"at price {price:g}"
    if config.env == "head_rank":
        share = float(np.mean(config.rank.shares))
        options, at = (
            {**options, "pruned_share": share},
            f"of {env.get_wrapper_attr('settings').horizon}, towards {share:.0%}",
        )
    observation, info = env.reset(seed=0, options=options)
    frames = [(f"Start: dense, perplexity {info['ppl']:.2f} on the reward text", _frame(env))]
    over, step = False, 0
    while not over:
        observation, reward, terminated, truncated, info = env.step(player.act(observation))
        over, step = terminated or truncated, step + 1
        kept = info["flops"] / env.unwrapped.dense_flops  # type: ignore[attr-defined]
        caption = f"Decision {step} {at}: perplexity {info['ppl']:.2f}, {kept:.1%} of the FLOPs, {reward:+.3f}"
        frames.append((caption, _frame(env)))
    return frames


def _frame(env: gym.Env[Any, Any]) -> np.ndarray:
    frame: Any = env.render()
    assert isinstance(frame, np.ndarray)
    return frame


def _results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return found


def verdict(results: dict[str, Any]) -> str:
    """One clause: the networks against the best rule, by the rise of the test loss averaged over shares and seeds."""
    where = f"on {results['model']} ({'heads' if results['units'] == 'heads' else 'heads and MLP blocks'})"
    rises: dict[str, list[float]] = {}
    for row in results["rows"]:
        if row["sparsity"] is not None and row["flop_price"] is None:
            rises.setdefault(row["controller"], []).append(row["delta_nll"])
    means = {name: float(np.mean(values)) for name, values in rises.items()}
    networks = {name: mean for name, mean in means.items() if name.startswith(ANNController.name)}
    rules = {name: mean for name, mean in means.items() if name not in networks}
    if not networks or not rules:
        return f"{where} there is nothing to compare"
    rule, (network, *others) = (
        min(rules, key=lambda name: rules[name]),
        sorted(networks, key=lambda name: networks[name]),
    )
    ours, theirs = f"{networks[network]:.3f}", f"{rules[rule]:.3f}"
    if ours == theirs:
        said = f"{network} and the best rule, {rule}, are level: each raises the loss by {ours} nats on average"
    elif networks[network] < rules[rule]:
        times = f"{networks[network] / rules[rule]:.2f} times as much as the best rule, {rule} ({theirs})"
        said = f"{network} wins: it raises the loss by {ours} nats on average, {times}"
    else:
        times = f"{rules[rule] / networks[network]:.2f} times as much as {network} ({ours})"
        said = f"the rule {rule} wins: it raises the loss by {theirs} nats on average, {times}"
    return ", ".join([f"{where} {said}", *(f"and {name} raises it by {networks[name]:.3f}" for name in others)])


def _summary(plan: TrainConfig, found: dict[str, dict[str, Any]], seconds: float) -> list[tuple[str, str]]:
    start = "from zero" if plan.start_from is None else f"from the controller {plan.start_from}"
    facts = [
        ("Trained on", ", ".join(cli.words(plan.model_name))),
        ("Training", f"{plan.agent}, {start}, {plan.ppo.total_timesteps} steps, {seconds:.0f} s"),
    ]
    if "comparison" in found:
        results = found["comparison"]
        facts += [
            ("Compared on", f"{results['model']}, {results['dataset']}, {results['test_blocks']} test blocks"),
            ("Dense test perplexity", f"{results['dense']['test_ppl']:.2f}"),
            ("Machine", results["machine"]),
        ]
    return facts + [
        ("Held-out model", verdict(found[name])) for name in ("held_out", "held_out_units") if name in found
    ]

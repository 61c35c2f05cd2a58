"""Streams that drift: each way to follow them, on the same streams.

    python -m plasticity_env.agents.studies.dynamic.stream_study --model_name bard-llama-6x8

One row a stream and arm; finished rows are kept, and a second run goes on. With ``--train_steps`` PPO and DQN are trained first,
on streams of the train split; all arms play streams of the test split.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro

from plasticity_env.agents.studies.dynamic.stream_arms import (
    Always,
    Arm,
    AtRandom,
    Cusum,
    Learned,
    Nearest,
    StageOracle,
)
from plasticity_env.agents.studies.dynamic.stream_picture import draw_stream
from plasticity_env.common.files import LineFile
from plasticity_env.envs.stream_bench import StreamBench
from plasticity_env.envs.stream_env import MEASURE, RECALL, StreamEnv
from plasticity_env.envs.stream_settings import StreamSettings


@dataclass(frozen=True)
class Options:
    """What is played.

    Attributes:
        model_name: Embedded model, folder or GGUF file.
        datasets: Kinds of text.
        output: File of finished rows.
        seeds: Streams, from seed 0 on.
        chunks: Number of chunks in a stream.
        stage: Fewest and most chunks of a stage.
        max_length: Tokens of a chunk.
        fit_blocks: Calibration chunks of each kind.
        share: Share of the heads that go.
        flop_price: Price of a nat of log FLOPs.
        measure_all: Also play the arm that measures before every chunk.
        train_steps: Decisions that PPO and DQN are trained for; 0 leaves them out.
        picture: File for a picture of the first stream; None draws none.
    """

    model_name: str = "mixed-llama-4x8"
    datasets: tuple[str, ...] = StreamSettings.datasets
    output: Path = Path("runs/streams/rows.jsonl")
    seeds: int = 3
    chunks: int = 48
    stage: tuple[int, int] = (4, 12)
    max_length: int = 256
    fit_blocks: int = 16
    share: float = 0.5
    flop_price: float = 1.0
    measure_all: bool = True
    train_steps: int = 0
    picture: Path | None = None


def settings_of(options: Options) -> StreamSettings:
    """Settings of the environment."""
    return StreamSettings(
        model_name=options.model_name,
        datasets=options.datasets,
        split="test",
        chunks=options.chunks,
        stage=options.stage,
        max_length=options.max_length,
        fit_blocks=options.fit_blocks,
        share=options.share,
        flop_price=options.flop_price,
    )


def play(options: Options) -> list[dict[str, Any]]:
    """Play what is missing; returns all rows."""
    options.output.parent.mkdir(parents=True, exist_ok=True)
    lines = options.output.read_text(encoding="utf-8").splitlines() if options.output.is_file() else []
    rows = [json.loads(line) for line in lines]
    done = {(row["arm"], row["seed"]) for row in rows}
    bench = StreamBench(settings_of(options))
    env = StreamEnv(bench=bench)
    arms: dict[str, Arm] = {
        "dense": Always(RECALL),
        **{f"static {name}": Always(RECALL + k) for k, name in enumerate(bench.bank.names) if k},
        "random": AtRandom(),
        "nearest texts": Nearest(),
        "stage oracle": StageOracle(),
        "CUSUM, then measure": Cusum(),
    }
    if options.measure_all:
        arms["measure before each chunk"] = Always(MEASURE)
    if options.train_steps:
        arms |= trained(options, bench)
    with closing(LineFile(options.output)) as file:
        for seed in range(options.seeds):
            for name, arm in arms.items():
                if (name, seed) not in done:
                    rows.append(play_stream(env, arm, seed) | {"arm": name, "seed": seed, "model": bench.name})
                    file.write(json.dumps(rows[-1]) + "\n")
                    print(f"seed {seed}, {name}: rise {rows[-1]['rise']:.4f}, {rows[-1]['flops_kept']:.4f}", flush=True)
    return rows


def play_stream(env: StreamEnv, arm: Arm, seed: int) -> dict[str, Any]:
    """Mean rise of the loss over the dense model, mean FLOPs kept (billed ones included), return, and every chunk's rise."""
    observation, info = env.reset(seed=seed)
    arm.start(env)
    rises, kept, told, total, over = [], [], [], 0.0, False
    while not over:
        observation, reward, over, _, info = env.step(arm.act(env, observation, info))
        rises.append(info["loss"] - info["dense_loss"])
        kept.append(info["flops_kept"])
        told.append((info["kind"], info["structure"]))
        total += reward
    return {
        "rise": float(np.mean(rises)),
        "flops_kept": float(np.mean(kept)),
        "return": total,
        "rises": [round(rise, 5) for rise in rises],
        "kinds": [Path(kind).stem for kind, _ in told],
        "structures": [structure for _, structure in told],
    }


def trained(options: Options, bench: StreamBench) -> dict[str, Arm]:
    """PPO and DQN of Stable-Baselines3, as they are, on streams of the train split."""
    import stable_baselines3 as sb3

    learners = StreamBench(replace(bench.settings, split="train", observation="flat"))
    found: dict[str, Arm] = {}
    for name, options_of in (
        ("PPO", {"n_steps": 256, "gamma": 0.9, "ent_coef": 0.01}),
        ("DQN", {"gamma": 0.5, "learning_starts": 500}),
    ):
        env: gym.Env[Any, Any] = StreamEnv(bench=learners)
        agent = getattr(sb3, name)("MlpPolicy", env, seed=0, device="cpu", **options_of)
        agent.learn(options.train_steps)
        found[name] = Learned(agent)
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: each arm's rise and FLOPs, and where it lies between the stage oracle (0) and the best static one (1)."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    of = {arm: [row for row in rows if row["arm"] == arm] for arm in arms}
    mean = {arm: float(np.mean([row["rise"] for row in of[arm]])) for arm in arms}
    static = min((arm for arm in arms if arm.startswith("static")), key=lambda arm: mean[arm])
    lines = [
        "| way | rise, nats (by stream) | mean | between oracle and static | FLOPs kept |",
        "|---|---|---:|---:|---:|",
    ]
    for arm in arms:
        if arm.startswith("static") and arm != static:
            continue
        said = ", ".join(f"{row['rise']:.3f}" for row in of[arm])
        between = (mean[arm] - mean["stage oracle"]) / (mean[static] - mean["stage oracle"])
        kept = np.mean([row["flops_kept"] for row in of[arm]])
        lines.append(f"| {arm} | {said} | {mean[arm]:.4f} | {between:.2f} | {kept:.4f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    torch.set_num_threads(1)
    options = tyro.cli(Options)
    found = play(options)
    print(table(found))
    if options.picture is not None:
        draw_stream([row for row in found if row["seed"] == 0], options.picture)

"""Streams that drift: each way to follow them, on the same streams.

    python -m plasticity_env.agents.studies.dynamic.stream_study --model_name bard-llama-6x8

One row a stream and arm; finished rows are kept, and a second run goes on. With ``--train_steps`` PPO and DQN are trained first,
on streams of the train split; all arms play streams of the test split.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
import tyro

from plasticity_env.agents.studies.dynamic.published.stream_players import ProbeStream, RemoverStream, StreamPlayer
from plasticity_env.agents.studies.dynamic.stream_arms import (
    Always,
    Arm,
    AtRandom,
    Cusum,
    Learned,
    MeasureEvery,
    Nearest,
    StageOracle,
    WithoutMeasuring,
)
from plasticity_env.agents.studies.dynamic.stream_picture import draw_stream
from plasticity_env.common.arguments import plain
from plasticity_env.common.at_work import at_work_on
from plasticity_env.common.files import LineFile
from plasticity_env.common.marked_pages import MarkedPage
from plasticity_env.common.tracking import EpisodeStep, Tracker, TrackingOptions
from plasticity_env.envs.stream_bench import StreamBench
from plasticity_env.envs.stream_env import RECALL, StreamEnv
from plasticity_env.envs.stream_settings import StreamSettings

CUSUM, ORACLE = "CUSUM, then measure", "stage oracle"
LEARNERS: dict[str, dict[str, Any]] = {
    "PPO": {"n_steps": 256, "gamma": 0.9, "ent_coef": 0.01},
    "DQN": {"gamma": 0.5, "learning_starts": 500},
}
PROBE, REMOVER = "Probe Pruning, history", "RAP, agent"
DECIDED = ("arm", "seed", "chunk", "kind", "structure", "rise")


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
        split: Split that streams are cut from; settings are chosen on train.
        measure_every: Arms that measure before every so many chunks.
        only_measure: Play those arms, the static ones and the stage oracle alone, to see what `prior_tokens` and `forget` do.
        train_steps: Decisions that PPO and DQN are trained for; 0 leaves them out.
        train_chunks: Chunks of each kind's train text that they learn from; 0 for all.
        train_seeds: Trainings of each, with seeds from 0 on.
        probe: Also play Probe Pruning, whose history follows the stream.
        remover_steps: Removals that RAP's agent is trained for, as often as PPO is; 0 leaves it out.
        learn_measuring: Whether they may measure. If not, all that they meet is remembered, and learning soon takes no forward.
        learners: Which of PPO and DQN.
        prior_tokens, forget: Of measurements, as the environment takes them.
        picture: File for a picture of the first stream; None draws none.
        page: Page (Markdown) that the table is also written to, between its marks.
        tracking: Where the numbers go, besides the folder of ``output``.
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
    split: str = "test"
    measure_every: tuple[int, ...] = (1,)
    only_measure: bool = False
    train_steps: int = 0
    train_chunks: int = 0
    learn_measuring: bool = True
    train_seeds: int = 3
    learners: tuple[Literal["PPO", "DQN"], ...] = ("PPO", "DQN")
    probe: bool = False
    remover_steps: int = 0
    prior_tokens: float = StreamSettings.prior_tokens
    forget: float = StreamSettings.forget
    picture: Path | None = None
    page: Path | None = None
    tracking: TrackingOptions = field(default_factory=TrackingOptions)


def settings_of(options: Options) -> StreamSettings:
    """Settings of the environment."""
    return StreamSettings(
        model_name=options.model_name,
        datasets=options.datasets,
        split=options.split,
        chunks=options.chunks,
        stage=options.stage,
        max_length=options.max_length,
        fit_blocks=options.fit_blocks,
        share=options.share,
        flop_price=options.flop_price,
        prior_tokens=options.prior_tokens,
        forget=options.forget,
    )


def play(options: Options) -> list[dict[str, Any]]:
    """Play what is missing; returns all rows."""
    with at_work_on(options.output):
        return _play(options)


def _play(options: Options) -> list[dict[str, Any]]:
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
        ORACLE: StageOracle(),
        CUSUM: Cusum(),
    }
    if options.only_measure:
        arms = {name: arm for name, arm in arms.items() if name.startswith("static") or name == ORACLE}
    arms |= {f"measure before every {every}. chunk": MeasureEvery(every) for every in options.measure_every}
    players: dict[str, Callable[[], StreamPlayer]] = {PROBE: lambda: ProbeStream(bench)} if options.probe else {}
    if options.remover_steps:
        players |= {
            f"{REMOVER} {seed}": partial(RemoverStream, bench, options.remover_steps, seed)
            for seed in range(options.train_seeds)
        }
    if options.train_steps:
        arms |= trained(options, bench, {row["arm"] for row in rows if row["seed"] == options.seeds - 1})
    with (
        closing(LineFile(options.output)) as file,
        Tracker(options.output.parent, plain(options), options.tracking, resume=True, program="stream") as tracker,
    ):
        for seed in range(options.seeds):
            for name, arm in arms.items():
                if (name, seed) not in done:
                    row, steps = play_stream(env, arm, seed)
                    rows.append(row | {"arm": name, "seed": seed, "model": bench.name})
                    file.write(json.dumps(rows[-1]) + "\n")
                    track_stream(tracker, rows[-1], steps, bench.bank.model.heads)
                    print(f"seed {seed}, {name}: rise {rows[-1]['rise']:.4f}, {rows[-1]['flops_kept']:.4f}", flush=True)
        for name, made in players.items():
            missing = [seed for seed in range(options.seeds) if (name, seed) not in done]
            player = made() if missing else None
            for seed in missing:
                assert player is not None
                env.reset(seed=seed)
                row = played_row(bench, player, env.stream)
                rows.append(row | {"arm": name, "seed": seed, "model": bench.name})
                file.write(json.dumps(rows[-1]) + "\n")
                tracker.log({f"{name}/{number}": row[number] for number in ("rise", "flops_kept")}, seed)
                print(f"seed {seed}, {name}: rise {row['rise']:.4f}, {row['flops_kept']:.4f}", flush=True)
        tracker.table("decisions", list(DECIDED), stream_decisions(rows))
        if options.picture is not None:
            draw_stream([row for row in rows if row["seed"] == 0], options.picture)
            tracker.artifact("dashboard", options.picture)
    return rows


def track_stream(tracker: Tracker, row: dict[str, Any], steps: list[EpisodeStep], heads: int) -> None:
    """Write a stream that an arm followed; its heads are the share of the chunks that each ran on.

    Args:
        tracker: The study's tracker.
        row: Row of the stream.
        steps: Chunks of the stream.
        heads: Columns that are heads.
    """
    arm, seed = row["arm"], row["seed"]
    tracker.log({f"{arm}/{name}": row[name] for name in ("rise", "flops_kept", "return")}, seed)
    shares = np.mean([step.active for step in steps], 0).tolist()
    tracker.heads(shares, seed, arm, heads)
    tracker.episode(steps, seed, arm, f"stream {seed}", heads)


def stream_decisions(rows: list[dict[str, Any]]) -> list[list[Any]]:
    """A row of `DECIDED` for each chunk of each stream."""
    return [
        [row["arm"], row["seed"], chunk, kind, structure, rise]
        for row in rows
        for chunk, (kind, structure, rise) in enumerate(zip(row["kinds"], row["structures"], row["rises"], strict=True))
    ]


def play_stream(env: StreamEnv, arm: Arm, seed: int) -> tuple[dict[str, Any], list[EpisodeStep]]:
    """Play one stream.

    Returns:
        Its row (mean rise of the loss over the dense model, mean FLOPs kept with billed ones, return, every chunk's rise), and
        its chunks as steps.
    """
    observation, info = env.reset(seed=seed)
    arm.start(env)
    rises, kept, told, steps, total, over = [], [], [], [], 0.0, False
    while not over:
        observation, reward, over, _, info = env.step(arm.act(env, observation, info))
        rises.append(info["loss"] - info["dense_loss"])
        kept.append(info["flops_kept"])
        told.append((info["kind"], info["structure"]))
        numbers = {"rise": rises[-1], "flops_kept": kept[-1], "reward": reward}
        note = f"{Path(info['kind']).stem}: {info['structure']}"
        steps.append(EpisodeStep(env.structure.active.int().tolist(), note, numbers))
        total += reward
    row = {
        "rise": float(np.mean(rises)),
        "flops_kept": float(np.mean(kept)),
        "return": total,
        "rises": [round(rise, 5) for rise in rises],
        "kinds": [Path(kind).stem for kind, _ in told],
        "structures": [structure for _, structure in told],
    }
    return row, steps


def played_row(bench: StreamBench, player: StreamPlayer, stream: tuple[tuple[str, int], ...]) -> dict[str, Any]:
    """The row of a player that makes its own masks; the first chunk counts for no arm."""
    losses, kept = player.play(stream)
    dense = [bench.run(kind, number, bench.bank[0]).loss for kind, number in stream]
    rises = [loss - of_dense for loss, of_dense in zip(losses, dense, strict=True)][1:]
    return {
        "rise": float(np.mean(rises)),
        "flops_kept": float(np.mean(kept[1:])),
        "rises": [round(rise, 5) for rise in rises],
        "kinds": [Path(kind).stem for kind, _ in stream[1:]],
        "structures": ["its own"] * len(rises),
    }


def trained(options: Options, bench: StreamBench, finished: Collection[str] = ()) -> dict[str, Arm]:
    """PPO and DQN of Stable-Baselines3, as they are, on streams of the train split; without those whose rows are finished."""
    import stable_baselines3 as sb3

    learners: StreamBench | None = None
    found: dict[str, Arm] = {}
    for name in options.learners:
        for seed in range(options.train_seeds):
            if (arm := f"{name} {seed}") in finished:
                continue
            if learners is None:
                learners = bench.on("train", "flat", options.train_chunks)
            stream = StreamEnv(bench=learners)
            env: gym.Env[Any, Any] = stream if options.learn_measuring else WithoutMeasuring(stream)
            agent = getattr(sb3, name)("MlpPolicy", env, seed=seed, device="cpu", **LEARNERS[name])
            agent.learn(options.train_steps)
            found[arm] = Learned(agent, env.action if isinstance(env, WithoutMeasuring) else int)
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: each arm's rise and FLOPs, where it lies between the stage oracle (0) and the best static one (1), and how soon
    it runs a stage under the structure of its kind; trainings of one algorithm are one arm. On streams of one kind, whose stage
    oracle is the static structure, the rise over that of the static one."""
    of: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        of.setdefault(_family(row["arm"]), []).append(row)
    mean = {arm: float(np.mean([row["rise"] for row in mine])) for arm, mine in of.items()}
    static = min((arm for arm in of if arm.startswith("static")), key=lambda arm: mean[arm])
    of = {arm: mine for arm, mine in of.items() if arm == static or not arm.startswith("static")}
    one_kind = len({kind for row in rows for kind in row["kinds"]}) == 1
    shown = "over static (by stream)" if one_kind else "between oracle and static | own structure by the 2nd chunk"
    lines = [
        f"| way | rise, nats (by stream) | mean | {shown} | FLOPs kept |",
        "|---" * (5 if one_kind else 6) + "|",
    ]
    for arm, mine in of.items():
        if one_kind and arm == ORACLE:
            continue
        rises, kept = _by_stream(mine), np.mean([row["flops_kept"] for row in mine])
        if one_kind:
            ratios = ", ".join(f"{own / other:.2f}" for own, other in zip(rises, _by_stream(of[static]), strict=True))
            place = f"{mean[arm] / mean[static]:.2f} ({ratios})"
        else:
            between = (mean[arm] - mean[ORACLE]) / (mean[static] - mean[ORACLE])
            soon = [share for row in mine if not np.isnan(share := in_time(row))]
            place = f"{between:.2f} | {f'{np.mean(soon):.0%}' if soon else '-'}"
        lines.append(
            f"| {arm} | {', '.join(f'{rise:.3f}' for rise in rises)} | {mean[arm]:.4f} | {place} | {kept:.4f} |"
        )
    if CUSUM in of:
        lines += ["", *(_against(arm, of[arm], of[CUSUM]) for arm in LEARNERS if arm in of)]
    return "\n".join(lines)


def _by_stream(rows: list[dict[str, Any]]) -> list[float]:
    """The mean rise in each stream."""
    return [
        float(np.mean([row["rise"] for row in rows if row["seed"] == seed]))
        for seed in sorted({row["seed"] for row in rows})
    ]


def page_of(path: Path, model: str) -> MarkedPage:
    """The page that a model's table is written to, between marks of its own.

    Raises:
        InputError: The page has one of the marks only.
    """
    name = Path(model).stem
    return MarkedPage(path, f"<!-- streams of {name}: made by stream_study -->", f"<!-- end of streams of {name} -->")


def in_time(row: dict[str, Any], within: int = 2) -> float:
    """Share of a stream's later stages of so many chunks or more that run under their kind's structure at that chunk."""
    kinds, structures = row["kinds"], row["structures"]
    starts = [place for place in range(1, len(kinds)) if kinds[place] != kinds[place - 1]]
    ends = [*starts[1:], len(kinds)]
    there = [place for place, end in zip(starts, ends, strict=True) if end - place >= within]
    hits = [Path(structures[place + within - 1].split("@")[0]).stem == kinds[place] for place in there]
    return float(np.mean(hits)) if hits else float("nan")


def _family(arm: str) -> str:
    name, _, seed = arm.rpartition(" ")
    return name if seed.isdigit() and name in (*LEARNERS, REMOVER) else arm


def _against(arm: str, mine: list[dict[str, Any]], others: list[dict[str, Any]]) -> str:
    """The mean difference of the rises, with an interval of a bootstrap over trainings and streams."""
    theirs = {row["seed"]: row["rise"] for row in others}
    grid = np.array(
        [
            [row["rise"] - theirs[row["seed"]] for row in mine if row["arm"] == name]
            for name in sorted({row["arm"] for row in mine})
        ]
    )
    random = np.random.default_rng(0)
    drawn = [
        grid[random.integers(len(grid), size=len(grid))][:, random.integers(grid.shape[1], size=grid.shape[1])].mean()
        for _ in range(10_000)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    said = f"{arm} less {CUSUM}: {grid.mean():+.4f} nats [{low:+.4f}, {high:+.4f}]"
    return f"{said}, {grid.shape[0]} trainings on {grid.shape[1]} streams"


if __name__ == "__main__":
    torch.set_num_threads(1)
    options = tyro.cli(Options, config=(tyro.conf.OmitArgPrefixes,))
    page = None if options.page is None else page_of(options.page, options.model_name)
    shown = table(play(options))
    print(shown)
    if page is not None:
        page.renew(f"\n{shown}\n")

"""What each head really costs: the rise of the reward loss when it goes too, repaired, from states that episodes pass through.

An episode tells a ranking one number for dozens of choices. Here every choice of a state is tried by itself (full-information
feedback, one forward each, started at the head's layer), so that a ranking can be fitted to it (`agents.ranking_fit`) before
it learns by playing. States are drawn as rankings make them: up to 65% of the heads pruned in up to three rounds by random
mixtures of two scores, chance and depth.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

import plasticity_env  # noqa: F401  (registers the environments)
from plasticity_env.cli import words
from plasticity_env.edits import KEEP, PRUNE
from plasticity_env.envs.base import PlasticityEnv
from plasticity_env.errors import InputError
from plasticity_env.files import replace_file
from plasticity_env.observation import Observation, head_column, head_columns
from plasticity_env.progress import Progress
from plasticity_env.signals import mean_loss

FEATURES = (
    *(
        "fisher_z",
        "gradient_z",
        "residual_fisher_z",
        "residual_gradient_z",
        "entropy_z",
        "layer_active",
        "group_active",
    ),
    *("depth", "magnitude_z", "activation_z", "fluctuation_z", "obs_z", "gate_gradient_z"),
    *("layer_fisher_rank", "layer_residual_rank", "layer_mean_z", "sensitivity_drift"),
)
_MOST_PRUNED = 0.65
_SAVE_EVERY = 5  # states


@dataclass(frozen=True)
class CostConfig:
    """What is measured."""

    model_name: str = "bard-gpt2-4x4,bard-llama-4x8,bard-gpt2-6x8,bard-llama-6x8"
    """language models, separated by commas"""
    dataset: str = "shakespeare"
    """text: shakespeare, a path, or a hub data set"""
    states: int = 150
    """states of each model"""
    calibration_blocks: int = 16
    """blocks that score and repair"""
    reward_blocks: int = 24
    """blocks on which the rise of the loss is measured"""
    batch_size: int = 24
    """sequences in one pass"""
    max_length: int = 128
    """tokens a block"""
    seed: int = 0
    """of the states"""
    device: str = "cpu"
    """cpu, cuda, ..."""

    def __post_init__(self) -> None:
        if not words(self.model_name):
            raise InputError("model_name is empty: give at least one language model")
        if self.states < 1:
            raise InputError(f"states must be at least 1, got {self.states}")
        if self.seed < 0:
            raise InputError(f"seed must be at least 0, got {self.seed}")

    def made(self, name: str) -> dict[str, Any]:
        """What decides the costs of one of the models."""
        fields = ("dataset", "calibration_blocks", "reward_blocks", "max_length", "seed")
        return {"model_name": name, **{field: getattr(self, field) for field in fields}}


@dataclass(frozen=True)
class HeadCosts:
    """Of S states of one model with N heads.

    Attributes:
        names: Of the F features.
        features: (S, N, F) columns of the observation.
        cost: (S, N) nats per token; NaN where the head was pruned already or was not tried.
        made: What they were measured with (`CostConfig.made`); empty where the file does not say.
    """

    names: tuple[str, ...]
    features: torch.Tensor
    cost: torch.Tensor
    made: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write safetensors; the features as float16."""
        tensors = {"features": self.features.half().contiguous(), "cost": self.cost.float().contiguous()}
        said = {"features": ",".join(self.names), "made": json.dumps(self.made)}
        replace_file(path, lambda place: save_file(tensors, place, metadata=said))

    @classmethod
    def load(cls, path: Path) -> HeadCosts:
        """Read what `save` wrote.

        Raises:
            InputError: No such file, or another one.
        """
        try:
            with safe_open(path, "pt") as file:
                said = file.metadata()
                names, made = tuple(said["features"].split(",")), dict(json.loads(said.get("made", "{}")))
                return cls(names, file.get_tensor("features").float(), file.get_tensor("cost"), made)
        except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
            raise InputError(f"{str(path)!r} holds no costs of heads: make it with scripts/fit_ranking.py") from error


def measure_costs(config: CostConfig, folder: Path) -> list[Path]:
    """Measure every model's states; a file each, written as they come, and gone on with where it was cut.

    Args:
        config: What.
        folder: Where ``MODEL.safetensors`` go, slashes of a model's name as underscores.

    Returns:
        The files.

    Raises:
        InputError: A file that is there holds other features, or was measured with something else.
    """
    return [
        _measure_model(config, name, folder / f"{name.replace('/', '_')}.safetensors")
        for name in words(config.model_name)
    ]


def costs_of_state(env: PlasticityEnv) -> np.ndarray:
    """(N,) rise of the reward loss when one more head goes in the present state, nats per token; NaN where pruned."""
    bench, state = env.workbench, env.get_state()["episode"]
    ids = bench.blocks("reward", state.reward)
    active = state.active.flatten()
    costs = np.full(len(active), np.nan)
    for head in np.flatnonzero(active.numpy()):
        mask = active.clone()
        mask[head] = False
        bench.install(mask.view(state.active.shape), state.calibration)
        loss = mean_loss(bench.model, ids, bench.batch_size, bench.prefix, ("costs", state.reward))
        costs[head] = loss - state.measurement.loss
    bench.install(state.active, state.calibration)
    return costs


def _measure_model(config: CostConfig, name: str, path: Path) -> Path:
    columns = head_columns(FEATURES)
    features: list[torch.Tensor] = []
    costs: list[torch.Tensor] = []
    made = config.made(name)
    if path.exists():
        known = HeadCosts.load(path)
        if known.names != FEATURES:
            raise InputError(f"{str(path)!r} holds other features: choose another folder")
        changed = [key for key, value in made.items() if known.made and known.made.get(key) != value]
        if changed:
            raise InputError(
                f"{str(path)!r} was measured with {changed[0]}={known.made.get(changed[0])!r}, not {made[changed[0]]!r}: "
                "choose another folder, or measure with the same arguments"
            )
        made = known.made  # a file that does not say goes on without saying
        features, costs = list(known.features), list(known.cost)
    if len(costs) >= config.states:
        return path
    env: Any = gym.make(
        "plasticity/Heads-v0",
        disable_env_checker=True,
        model_name=name,
        dataset=config.dataset,
        horizon=4,
        repair="least_squares",
        calibration_blocks=config.calibration_blocks,
        reward_blocks=config.reward_blocks,
        batch_size=config.batch_size,
        max_length=config.max_length,
        max_sparsity=1.0,
        flop_price=4.0,
        device=config.device,
    ).unwrapped
    with Progress(f"costs of {name}", config.states, start=len(costs)) as progress:
        while len(costs) < config.states:
            observation = _draw_state(env, np.random.default_rng([config.seed, len(costs)]))
            features.append(torch.from_numpy(observation["heads"][:, columns]))
            costs.append(torch.from_numpy(costs_of_state(env)).float())
            if len(costs) % _SAVE_EVERY == 0 or len(costs) == config.states:
                HeadCosts(FEATURES, torch.stack(features), torch.stack(costs), made).save(path)
            progress.advance(1)
    env.close()
    return path


def _draw_state(env: Any, random: np.random.Generator) -> Observation:
    """Play the environment into a state that a ranking might reach; its observation."""
    observation, _ = env.reset(seed=int(random.integers(2**31)))
    heads = len(observation["heads"])
    share = random.uniform(0, _MOST_PRUNED)
    rounds = int(random.integers(1, 4)) if share * heads >= 1 else 0
    mix, slope = random.dirichlet([1.0, 1.0, 0.6, 0.3]), random.choice([-1.0, 1.0])
    for done in range(rounds):
        active = head_column(observation, "active") > 0.5
        parts = [head_column(observation, "fisher_rank"), head_column(observation, "residual_fisher_rank")]
        parts += [random.random(heads), slope * head_column(observation, "depth")]
        order = np.argsort(np.where(active, sum(w * part for w, part in zip(mix, parts, strict=True)), np.inf))
        edits = np.full(heads, KEEP)
        edits[order[: max(0, round(share * heads * (done + 1) / rounds) - int((~active).sum()))]] = PRUNE
        observation, *_ = env.step(edits)
    return observation

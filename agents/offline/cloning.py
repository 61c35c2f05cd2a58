"""Behaviour cloning: the controllers' network learns from recorded episodes what their player would do.

On Heads and HeadEdit the loss is the negative log-likelihood of the recorded edits. On HeadRank an action counts as far as
the environment reads it, its order up to the last unit that went, so that the loss is Plackett-Luce's.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plasticity_env.agents.offline.clone_config import CloneConfig
from plasticity_env.agents.offline.minari_files import open_dataset, stored_in
from plasticity_env.agents.ppo.padding import Batch, decide, pad
from plasticity_env.agents.ppo.plackett_luce import Picks, pick_log_probs, picks_of
from plasticity_env.common.at_work import at_work_in
from plasticity_env.common.errors import InputError
from plasticity_env.common.progress import Progress
from plasticity_env.common.tracking import new_run_folder
from plasticity_env.controllers.ann import ANNController
from plasticity_env.controllers.network import HeadNetwork, NetworkConfig
from plasticity_env.envs.edits import KEEP, PRUNE
from plasticity_env.envs.observation import Observation, head_column
from plasticity_env.envs.settings import Settings

HELD_OUT = 5  # of so many episodes one judges and does not teach


@dataclass(frozen=True)
class Decisions:
    """M recorded decisions in one kind of environment over one model.

    Attributes:
        batch: Observations.
        actions: (M, N) edits, or (M, 1) the one edit; None on HeadRank.
        picks: What went, in its order; None but on HeadRank.
        episode: (M,) number of the episode.
    """

    batch: Batch
    actions: Tensor | None
    picks: Picks | None
    episode: Tensor

    def __getitem__(self, index: Tensor) -> Decisions:
        actions = None if self.actions is None else self.actions[index]
        picks = None if self.picks is None else self.picks[index]
        return Decisions(self.batch[index], actions, picks, self.episode[index])


@dataclass(frozen=True)
class Cloned:
    """The result of a cloning.

    Attributes:
        controller: The network.
        loss: Mean loss of a decision of the last epoch, nats.
        agreement: Share of choices on episodes that were held out that it would make as well; None where there are too few.
    """

    controller: ANNController
    loss: float
    agreement: float | None


def clone(config: CloneConfig) -> tuple[Path, Cloned]:
    """Train on a data set and write the controller.

    Args:
        config: Arguments.

    Returns:
        The controller's folder, and what was learned.

    Raises:
        InputError: No such data set, one of another version, Minari is not installed, or another process is at work in the
            folder.
    """
    with at_work_in(config.output_dir):
        return _clone(config)


def _clone(config: CloneConfig) -> tuple[Path, Cloned]:
    with stored_in(config.root):
        dataset, kind = open_dataset(config.dataset_id)
        decisions = read_decisions(dataset, kind)
        settings = _settings(dataset)
    info = {
        "agent": "behaviour_cloning",
        "env": kind,
        "models": [settings["model_name"]],
        "mode": settings["mode"],
        "repair": settings["repair"],
        "signals": [name for name in ("residual_signal", "crossfit_signal", "obs_signal") if settings.get(name)],
        "dataset": config.dataset_id,
        "seed": config.seed,
    }
    found = learn(decisions, kind, config, info)
    folder = (config.output_dir or new_run_folder("clone")) / "controller"
    found.controller.save(folder)
    return folder, found


def read_decisions(dataset: Any, kind: str) -> Decisions:
    """All decisions of a data set.

    Raises:
        InputError: If its observations have other columns than this version's.
    """
    observations, actions, orders, episode = [], [], [], []
    settings = _settings(dataset)
    for number, played in enumerate(dataset.iterate_episodes()):
        parts = {name: np.asarray(values) for name, values in played.observations.items()}
        seen = [
            Observation(kind, {name: values[step] for name, values in parts.items()})  # type: ignore[arg-type]
            for step in range(len(played.rewards) + 1)
        ]
        observations += seen[:-1]
        episode += [number] * len(played.rewards)
        actions += [np.atleast_1d(action) for action in np.asarray(played.actions)]
        if kind == "head_rank":
            active = torch.from_numpy(np.stack([head_column(each, "active") > 0.5 for each in seen]))
            scores, adaptive = np.asarray(played.actions), settings["mode"] == "adaptive"
            orders.append(picks_of(scores, active[:-1], active[1:], adaptive, settings["units"] == "heads"))
    if not observations:
        raise InputError("the data set holds no decision: record more episodes")
    batch = pad(observations, len(observations[0]["heads"]))
    picks = Picks.cat(orders, batch.heads.shape[1]) if orders else None
    edits = None if orders else torch.from_numpy(np.stack(actions)).long()
    return Decisions(batch, edits, picks, torch.tensor(episode))


def _settings(dataset: Any) -> dict[str, Any]:
    """All settings of a data set's environment; those that its arguments leave out are the defaults."""
    return {**asdict(Settings()), **dataset.spec.env_spec.kwargs}


def learn(decisions: Decisions, kind: str, config: CloneConfig, info: dict[str, Any]) -> Cloned:
    """Fit a fresh network to decisions.

    Args:
        decisions: Decisions in one kind of environment.
        kind: Kind of that environment.
        config: Arguments.
        info: Saved with the weights.
    """
    torch.manual_seed(config.seed)
    network = HeadNetwork(NetworkConfig(width=config.width))
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    judges = decisions.episode % HELD_OUT == HELD_OUT - 1
    taught = (~judges).nonzero()[:, 0]
    order, loss = torch.Generator().manual_seed(config.seed), torch.zeros(())
    with Progress("cloning", config.epochs) as progress:
        for _ in range(config.epochs):
            total = 0.0
            for part in taught[torch.randperm(len(taught), generator=order)].split(config.batch_size):
                loss = -log_likelihoods(network, decisions[part], kind).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += float(loss.detach()) * len(part)
            progress.advance(1, loss=total / len(taught))
    agreed = agreement(network, decisions[judges.nonzero()[:, 0]], kind) if bool(judges.any()) else None
    return Cloned(ANNController(network.eval(), info=info), total / len(taught), agreed)


def log_likelihoods(network: HeadNetwork, decisions: Decisions, kind: str) -> Tensor:
    """(M,) log-likelihood of each decision, nats."""
    if decisions.picks is not None:
        return pick_log_probs(_pruning_logits(network, decisions.batch), decisions.picks).sum(1)
    assert decisions.actions is not None
    return decide(network, decisions.batch, kind == "head_edit").actions.log_prob(decisions.actions).sum(1)


@torch.no_grad()
def agreement(network: HeadNetwork, decisions: Decisions, kind: str) -> float:
    """Share of choices that the network's likeliest action makes as well: of edits, or of the units that went."""
    if decisions.picks is not None:
        picks = decisions.picks
        logits = _pruning_logits(network, decisions.batch).masked_fill(~picks.candidates, -torch.inf)
        count = picks.picked.sum(1, keepdim=True)
        ranks = logits.argsort(dim=1, descending=True).argsort(1)
        went = picks.picked.gather(1, picks.order.argsort(1))  # by unit
        return float(((ranks < count) & went).sum() / went.sum().clamp(min=1))
    assert decisions.actions is not None
    likeliest = decide(network, decisions.batch, kind == "head_edit").actions.log_probs.argmax(-1)
    return float((likeliest == decisions.actions).float().mean())


def _pruning_logits(network: HeadNetwork, batch: Batch) -> Tensor:
    """(M, N) logits of pruning over keeping."""
    edits = network(batch.heads, batch.globals, batch.valid).edits
    logits: Tensor = edits[..., PRUNE] - edits[..., KEEP]
    return logits

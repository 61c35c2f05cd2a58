"""Proximal policy optimisation on `plasticity/HeadRank-v1`: groups play the same scenario, and the group is the baseline.

Reads from top to bottom as the algorithm goes: scenarios, group advantages, update (the one of `ppo`). An episode is a handful
of rankings of all units, paid by the rise of the loss at its end, and steps of the environment are what costs. Hence:

- Each scenario (model, mode, rounds, share, blocks) is played by a group in one native vector environment, and a member's
  advantage is its return minus the group's mean (Kool et al. 2019; as in GRPO, Shao et al. 2024): no critic has to learn how
  hard a scenario is, so a network without a value, as the linear one, trains alike.
- The policy is Plackett-Luce (`plackett_luce`): a ranking is a sequence of picks. As with independent heads in `ppo`, each
  pick has its own probability ratio to clip: one ratio over tens of picks would clip most samples.
- Returns count in units of a reference rule's rise on the same scenario. All but the last reward telescope away; of what
  happened before a decision, its advantage is freed by regression on the loss that was there (a control variate).
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plasticity_env.agents.ppo.checkpoint import read_state, write_state
from plasticity_env.agents.ppo.padding import Batch, pad
from plasticity_env.agents.ppo.plackett_luce import Picks, pick_entropies, pick_log_probs, picks_of, sample_scores
from plasticity_env.agents.ppo.ppo import Callback, Choices, Metrics, PolicyLearner, clipped_update
from plasticity_env.agents.ppo.ppo_config import PPOConfig
from plasticity_env.agents.ppo.scenarios import Played, Scenario, Stage, rows_of
from plasticity_env.controllers.ann import ANNController
from plasticity_env.controllers.network import HeadNetwork
from plasticity_env.envs.edits import KEEP, PRUNE
from plasticity_env.envs.observation import Observation

WARM_SCENARIOS, WARM_STEPS, WARM_RATE = 16, 400, 1e-2


@dataclass
class Experience:
    """The decisions of an update.

    Attributes:
        batch: D observations.
        picks: What was decided.
        log_probs: (D, N) of each pick.
        advantages: (D,).
    """

    batch: Batch
    picks: Picks
    log_probs: Tensor
    advantages: Tensor


class RankPPO(PolicyLearner):
    """Trains a `HeadNetwork` to rank units.

    Args:
        stage: Stage on which scenarios are drawn and played.
        config: Arguments of PPO; ``total_timesteps`` counts every member's steps, the reference rule's and a warm start's.
        network: Network to go on with; None makes a fresh one.
        folder: Folder that checkpoints go to; None writes none.
        callback: Called after each update with the number of environment steps and the metrics.
    """

    def __init__(
        self,
        stage: Stage,
        config: PPOConfig,
        network: HeadNetwork | None = None,
        folder: Path | None = None,
        callback: Callback | None = None,
    ) -> None:
        super().__init__(config, network, folder, callback)
        self.stage, self.ranks = stage, stage.config

    def train(self) -> ANNController:
        """Train to the end, from the latest checkpoint if `resume` loaded one, and return the controller."""
        if self.update == 0 and self.ranks.warm_start is not None:
            self._imitate(self.ranks.warm_start)
        while self.global_step < self.config.total_timesteps:
            started, before = time.perf_counter(), self.global_step
            played = [self._play(scenario) for scenario in self.scenarios()]
            metrics = _episode_metrics(played, [self.stage.unit(each.scenario) for each in played])
            experience = self._experience(played)
            self._count(sum(each.scenario.rounds * self.ranks.group_size for each in played))
            metrics.update(self._update(experience, before))
            self.update += 1
            metrics["time/sps"] = (self.global_step - before) / (time.perf_counter() - started)
            if self.callback is not None:
                self.callback(self.global_step, metrics)
            done = self.global_step >= self.config.total_timesteps
            if self.folder is not None and (self.update % self.config.checkpoint_every == 0 or done):
                write_state(self.folder, self.state())
        return self.controller()

    def scenarios(self) -> list[Scenario]:
        """What this update plays; the seed and its number decide it."""
        random = np.random.default_rng([self.config.seed, self.update])
        return self.stage.draw_all(random, self.update * self.ranks.scenarios, self.ranks.scenarios)

    def controller(self) -> ANNController:
        """The network as it is now."""
        info: dict[str, Any] = {"agent": "ppo", "global_step": self.global_step, "seed": self.config.seed}
        info["warm_start"] = self.ranks.warm_start
        return ANNController(self.network, info=info)

    def resume(self) -> bool:
        """Load the latest checkpoint of the folder, so that `train` goes on exactly; False where there is none."""
        state = None if self.folder is None else read_state(self.folder, self._arguments(), self.device, "optimizer")
        if state is None:
            return False
        self.load_state(state)
        return True

    def state(self) -> dict[str, Any]:
        return {"config": self._arguments(), **super().state()}

    def _arguments(self) -> dict[str, Any]:
        return {**asdict(self.config), **asdict(self.ranks), "models": self.stage.models, "modes": self.stage.modes}

    # -- playing -------------------------------------------------------------------------------------------------------

    def _play(self, scenario: Scenario) -> Played:
        def choose(observation: Observation) -> np.ndarray:
            return sample_scores(self._logits(_batch(observation).to(self.device)), self.generator)

        with torch.no_grad():
            return self.stage.play(scenario, choose, self.ranks.group_size)

    def _logits(self, batch: Batch) -> Tensor:
        """(M, N) logits of pruning over keeping."""
        edits = self.network(batch.heads, batch.globals, batch.valid).edits
        return edits[..., PRUNE] - edits[..., KEEP]

    def _count(self, steps: int) -> None:
        self.global_step += steps + self.stage.reference_steps
        self.stage.reference_steps = 0

    @torch.no_grad()
    def _experience(self, played: list[Played]) -> Experience:
        slots = max(turn.scores.shape[1] for each in played for turn in each.turns)
        batches, picks, advantages = [], [], group_advantages(played, [self.stage.unit(p.scenario) for p in played])
        for each in played:
            adaptive, whole = each.scenario.mode == "adaptive", self.stage.counts_units
            for turn in each.turns:
                batches.append(_batch(turn.observation, slots))
                picks.append(picks_of(turn.scores, turn.before, turn.after, adaptive, whole))
        batch, chosen = Batch.cat(batches).to(self.device), Picks.cat(picks, slots).to(self.device)
        log_probs = pick_log_probs(self._logits(batch), chosen)
        return Experience(batch, chosen, log_probs, torch.from_numpy(advantages).float().to(self.device))

    # -- learning ------------------------------------------------------------------------------------------------------

    def _update(self, experience: Experience, before: int) -> Metrics:
        spread = experience.advantages.square().mean().sqrt()

        def choices(index: Tensor) -> Choices:
            picks, logits = experience.picks[index], self._logits(experience.batch[index])
            log_probs = pick_log_probs(logits, picks)
            advantages = (experience.advantages[index] / (spread + 1e-8))[:, None]  # (d, 1)
            entropies = pick_entropies(logits, picks)
            return Choices(log_probs, experience.log_probs[index], advantages, picks.picked, entropies)

        size = len(experience.advantages)
        rate = self.config.learning_rate * (1 - before / self.config.total_timesteps)
        return clipped_update(self, rate, size, max(1, -(-size // self.config.num_minibatches)), choices)

    def _imitate(self, rule: str, count: int = WARM_SCENARIOS) -> None:
        """Fit the logits of active units to the ranking that a rule gives them, on scenarios that the rule plays."""
        random = np.random.default_rng([self.config.seed, 0, 1])
        played = [self.stage.play_rule(scenario, rule) for scenario in self.stage.draw_all(random, 0, count)]
        self._count(sum(each.scenario.rounds for each in played))
        turns = [turn for each in played for turn in each.turns]
        slots = max(turn.scores.shape[1] for turn in turns)
        batch = Batch.cat([_batch(turn.observation, slots) for turn in turns]).to(self.device)
        targets = torch.full(batch.valid.shape, torch.nan)
        for row, turn in enumerate(turns):
            active = turn.before[0].nonzero()[:, 0]
            ranks = torch.from_numpy(turn.scores[0])[active].argsort().argsort().float()
            targets[row, active] = -self.ranks.warm_scale * torch.special.ndtri((ranks + 0.5) / len(active))
        targets = targets.to(self.device)
        known = ~targets.isnan()
        optimizer = torch.optim.Adam(self.network.parameters(), lr=WARM_RATE)
        for _ in range(WARM_STEPS):
            logits = self._logits(batch)
            weight = known.float()
            centred = logits - (logits * weight).sum(1, keepdim=True) / weight.sum(
                1, keepdim=True
            )  # order alone counts
            loss = (centred - targets)[known].square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def group_advantages(played: list[Played], units: list[float]) -> np.ndarray:
    """(D,) advantage of every decision: scenarios in order, in each its turns, in each its members.

    Args:
        played: Scenarios, each as a group played it.
        units: Rise of the reference rule on each, nats.
    """
    outcomes, priors = [], []
    for each, unit in zip(played, units, strict=True):
        outcome = -(each.rises - each.rises.mean()) / unit
        prior = np.zeros_like(outcome)
        for turn in each.turns:
            outcomes.append(outcome)
            priors.append(prior)
            prior = -(turn.loss - turn.loss.mean()) / unit
    y, x = np.concatenate(outcomes), np.concatenate(priors)
    slope = float(np.clip(x @ y / max(float(x @ x), 1e-12), 0.0, 1.0))  # of the outcome on what was known before
    return np.asarray(y - slope * x)


def _batch(observation: Observation, slots: int | None = None) -> Batch:
    return pad(rows_of(observation), observation["heads"].shape[1] if slots is None else slots)


def _episode_metrics(played: list[Played], units: list[float]) -> Metrics:
    ratios = [float(each.rises.mean()) / unit for each, unit in zip(played, units, strict=True)]
    return {
        "episode/return": -float(np.mean(ratios)),
        "episode/ppl": float(np.mean([np.exp(np.minimum(each.turns[-1].loss, 700)).mean() for each in played])),
        "episode/flops_kept": float(np.mean([each.flops_kept.mean() for each in played])),
        "episode/rise": float(np.mean([each.rises.mean() for each in played])),
    }

"""Proximal policy optimisation on `plasticity/HeadRank-v1`: groups play the same scenario, and the group is the baseline.

Reads from top to bottom as the algorithm goes: scenarios, group advantages, update. An episode is a handful of rankings of all
units, paid by the rise of the loss at its end, and steps of the environment are what costs. Hence:

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
from torch import Tensor, nn

from plasticity_env.agents.ppo.checkpoint import read_state, write_state
from plasticity_env.agents.ppo.padding import Batch, pad
from plasticity_env.agents.ppo.plackett_luce import Picks, pick_entropies, pick_log_probs, picks_of, sample_scores
from plasticity_env.agents.ppo.ppo import Callback, Metrics, PPOConfig, network_of
from plasticity_env.agents.ppo.scenarios import Played, Scenario, Stage
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


class RankPPO:
    """Trains a `HeadNetwork` to rank units.

    Args:
        stage: Where scenarios are drawn and played.
        config: Arguments of PPO; ``total_timesteps`` counts every member's steps, the reference rule's and a warm start's.
        network: To go on with; a fresh one when None.
        folder: Where checkpoints go; None writes none.
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
        self.stage, self.ranks, self.config, self.folder, self.callback = stage, stage.config, config, folder, callback
        torch.manual_seed(config.seed)
        self.device = torch.device(config.device)
        self.network = (network_of(config) if network is None else network).to(self.device).train()
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate, eps=1e-5)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.global_step = self.update = 0

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
            metrics.update(self._learn(experience, before))
            self.update += 1
            metrics["time/sps"] = (self.global_step - before) / (time.perf_counter() - started)
            if self.callback is not None:
                self.callback(self.global_step, metrics)
            done = self.global_step >= self.config.total_timesteps
            if self.folder is not None and (self.update % self.config.checkpoint_every == 0 or done):
                self._save()
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
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
        self.global_step, self.update = state["global_step"], state["update"]
        return True

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

    def _learn(self, experience: Experience, before: int) -> Metrics:
        config = self.config
        rate = config.learning_rate * (1 - before / config.total_timesteps)
        self.optimizer.param_groups[0]["lr"] = rate
        size = len(experience.advantages)
        minibatch = max(1, -(-size // config.num_minibatches))
        sums: list[Metrics] = []
        for _ in range(config.update_epochs):
            order = torch.randperm(size, generator=self.generator)
            for start in range(0, size, minibatch):
                sums.append(self._minibatch(experience, order[start : start + minibatch].to(self.device)))
            if sums[-1]["loss/approx_kl"] > config.target_kl:
                break
        metrics = {key: float(np.mean([each[key] for each in sums])) for key in sums[0]}
        metrics["train/learning_rate"] = rate
        return metrics

    def _minibatch(self, experience: Experience, index: Tensor) -> Metrics:
        config, picks = self.config, experience.picks[index]
        logits = self._logits(experience.batch[index])
        log_ratio = pick_log_probs(logits, picks) - experience.log_probs[index]  # (d, N), 0 where nothing was picked
        ratio = log_ratio.exp()
        spread = experience.advantages.square().mean().sqrt()
        advantages = (experience.advantages[index] / (spread + 1e-8))[:, None]
        clipped = ratio.clamp(1 - config.clip_coef, 1 + config.clip_coef)
        count = picks.picked.sum().clamp(min=1)
        policy_loss = -(torch.minimum(ratio * advantages, clipped * advantages) * picks.picked).sum() / count
        entropy = pick_entropies(logits, picks).sum() / count
        loss = policy_loss - config.ent_coef * entropy
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), config.max_grad_norm)
        self.optimizer.step()
        with torch.no_grad():
            outside = ((ratio - 1).abs() > config.clip_coef) & picks.picked
            return {
                "loss/policy": float(policy_loss),
                "loss/entropy": float(entropy),
                "loss/approx_kl": float((((ratio - 1) - log_ratio) * picks.picked).sum() / count),
                "loss/clip_fraction": float(outside.sum() / count),
            }

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

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def _arguments(self) -> dict[str, Any]:
        return {**asdict(self.config), **asdict(self.ranks), "models": self.stage.models, "modes": self.stage.modes}

    def _save(self) -> None:
        assert self.folder is not None
        state = {
            "config": self._arguments(),
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "global_step": self.global_step,
            "update": self.update,
        }
        write_state(self.folder, state)


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
    count = len(observation["heads"])
    return pad(
        [observation.row(row) for row in range(count)], observation["heads"].shape[1] if slots is None else slots
    )


def _episode_metrics(played: list[Played], units: list[float]) -> Metrics:
    ratios = [float(each.rises.mean()) / unit for each, unit in zip(played, units, strict=True)]
    return {
        "episode/return": -float(np.mean(ratios)),
        "episode/ppl": float(np.mean([np.exp(np.minimum(each.turns[-1].loss, 700)).mean() for each in played])),
        "episode/flops_kept": float(np.mean([each.flops_kept.mean() for each in played])),
        "episode/rise": float(np.mean([each.rises.mean() for each in played])),
    }

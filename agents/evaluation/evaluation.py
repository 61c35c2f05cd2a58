"""Controllers on text that none of them saw: loss on the test split against FLOPs, per controller, sparsity and seed.

The calibration text (and with it every score, repair and decision) changes with the seed; the test blocks are the same for
all, and nothing but the final figure reads them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import load_env_creator
from torch import Tensor

from plasticity_env import controllers
from plasticity_env.common.arguments import check_counts
from plasticity_env.common.errors import InputError
from plasticity_env.controllers import ANNController, Controller, PlasticityController, tuned_rule
from plasticity_env.data.text import TextSplits
from plasticity_env.envs.base import PlasticityEnv
from plasticity_env.envs.settings import LIMITS, Settings, check_range
from plasticity_env.model.loading import LoadedModel

BISECTIONS = 10  # halvings of PlasticityController's aggressiveness: finer than one head in 1024


@dataclass(frozen=True)
class Row:
    """One evaluated episode.

    Attributes:
        controller: Name.
        repair: Repair method.
        sparsity: Share of heads (of units' FLOPs where MLP blocks are units) that was asked for; None where the controller
            chose by the price.
        flop_price: The price, where the controller chose by it.
        seed: Seed of the calibration blocks.
        test_loss, test_ppl: Loss on the test split in nats per token, and its perplexity.
        delta_nll: Rise of the loss over the dense model's.
        flops_kept: Share of the dense model's forward FLOPs.
        active_heads: Number of active heads.
        seconds: Seconds that the episode took, with measuring, without evaluation on the test split.
        evaluations: Times the model was measured for the decision.
        active: (L, U) final mask.
    """

    controller: str
    repair: str
    sparsity: float | None
    flop_price: float | None
    seed: int
    test_loss: float
    test_ppl: float
    delta_nll: float
    flops_kept: float
    active_heads: int
    seconds: float
    evaluations: int
    active: list[list[bool]] = field(repr=False)


@dataclass(frozen=True)
class Protocol:
    """How controllers are compared.

    Attributes:
        sparsities: Shares of heads to prune.
        prices: FLOP prices at which networks play freely.
        seeds: How many calibration draws.
        rounds: Decisions over which each episode spreads its pruning.
        test_blocks: Blocks of the test split; None for all.
        spread_test: Whether they are spread over the split instead of its first ones.
        ranking_price: Price that controllers observe while they prune a given share.
    """

    sparsities: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5)
    prices: tuple[float, ...] = ()
    seeds: int = 3
    rounds: int = 1
    test_blocks: int | None = 32
    spread_test: bool = False
    ranking_price: float = 4.0

    def __post_init__(self) -> None:
        for sparsity in self.sparsities:
            if not 0 <= sparsity < 1:
                raise InputError(f"a sparsity must lie in [0, 1), got {sparsity!r}")
        for price in self.prices:
            check_range("flop_prices", price, *LIMITS["flop_price"])
        if not self.sparsities and not self.prices:
            raise InputError("nothing to play: give at least one sparsity or one flop price")
        check_counts(self, test_blocks=1, seeds=1, rounds=1)


class Arena:
    """One model and text on which controllers are played and scored.

    Args:
        protocol: What to play.
        env_id: Gymnasium id.
        loaded: The model.
        text: Its text.
        settings: Settings of the environment; horizon, limits and rounds are the protocol's.
    """

    def __init__(
        self,
        protocol: Protocol,
        loaded: LoadedModel,
        text: TextSplits,
        env_id: str,
        settings: Settings,
    ) -> None:
        self.protocol = protocol
        kind = load_env_creator(gym.spec(env_id).entry_point).kind  # type: ignore[arg-type, union-attr]
        self._ranks = kind == "head_rank"
        horizon = loaded.model.active.numel() if kind == "head_edit" else protocol.rounds
        settings = replace(settings, horizon=horizon, max_sparsity=1.0, min_heads_per_layer=0, model_name=loaded.name)
        self.env: PlasticityEnv = gym.make(
            env_id, loaded=loaded, text=text, disable_env_checker=True, **settings.kwargs()
        ).unwrapped  # type: ignore[assignment]
        if protocol.test_blocks is not None and protocol.test_blocks > len(text.blocks("test")):
            raise InputError(
                f"test_blocks {protocol.test_blocks} is more than the {len(text.blocks('test'))} of {text.name!r}"
            )
        self.dense_loss = self._dense_loss()

    def _dense_loss(self) -> float:
        self.env.reset(seed=0)
        return self.env.evaluate("test", self.protocol.test_blocks, spread=self.protocol.spread_test)

    def play(self, name: str, options: dict[str, Any] | None = None, label: str | None = None) -> Iterable[Row]:
        """Play a controller at each sparsity (or, for a network, each price) and seed; yields rows as they are done.

        Args:
            name: Name of the controller, as `controllers.make` takes it.
            options: Options of the controller.
            label: Name in the table; the controller's own when None.
        """
        options = dict(options or {})
        for seed in range(self.protocol.seeds):
            if name == "keep_all" or (not self._ranks and (name == "constant" or _fixed(name, options))):
                yield self._episode(controllers.make(name, **options), label, seed)
                continue
            for sparsity in self.protocol.sparsities:
                if self._ranks:  # the environment prunes the share, by the order that the controller gives
                    controller = controllers.make(name, **options)
                    yield self._episode(controller, label, seed, sparsity=sparsity)
                elif name == PlasticityController.name:
                    yield self._bisect(options, label, sparsity, seed)
                elif name == tuned_rule.NAME:
                    yield self._bisect({**tuned_rule.tuned_options(), **options}, label or name, sparsity, seed)
                else:
                    controller = controllers.make(name, sparsity=sparsity, rounds=self.protocol.rounds, **options)
                    yield self._episode(controller, label, seed, sparsity=sparsity)
            if self._is_network(name):
                for price in self.protocol.prices:
                    free = controllers.make(name, **options)
                    yield self._episode(free, f"{label or free.name}, free", seed, price=price)

    def _is_network(self, name: str) -> bool:
        return name not in controllers.names() or name == ANNController.name

    def _episode(
        self,
        controller: Controller,
        label: str | None,
        seed: int,
        sparsity: float | None = None,
        price: float | None = None,
    ) -> Row:
        env, started = self.env, time.perf_counter()
        misses = env.workbench.memo.misses
        active = self._roll(controller, seed, price, self._share(controller, sparsity, price))
        seconds = time.perf_counter() - started
        played = env.workbench.memo.misses - misses
        return self._row(controller, active, label, seed, sparsity, price, seconds, played)

    def _share(self, controller: Controller, sparsity: float | None, price: float | None) -> float | None:
        """What HeadRank is to prune; None elsewhere."""
        if not self._ranks:
            return None
        if price is not None:
            assert isinstance(controller, ANNController)
            return controller.share_at(price)
        return sparsity or 0.0

    def _roll(self, controller: Controller, seed: int, price: float | None, share: float | None = None) -> Tensor:
        """Play one episode; returns its final (L, H) mask. What the last decision leads to is not measured."""
        options = {"flop_price": price or self.protocol.ranking_price}
        if share is not None:
            options["pruned_share"] = max(share, 1e-6)  # nothing is below the share of any unit
        observation, _ = self.env.reset(seed=seed, options=options)
        controller.reset(seed)
        for _ in range(self.env.settings.horizon - 1):
            action = controller.act(observation)
            observation, _, terminated, truncated, _ = self.env.step(action)
            if terminated or truncated:
                return self.env.workbench.model.active
        return self.env.preview(controller.act(observation))

    def _row(
        self,
        controller: Controller,
        active: Tensor,
        label: str | None,
        seed: int,
        sparsity: float | None,
        price: float | None,
        seconds: float,
        evaluations: int,
    ) -> Row:
        loss = self.env.evaluate("test", self.protocol.test_blocks, active, spread=self.protocol.spread_test)
        return Row(
            controller=label or controller.name,
            repair=self.env.settings.repair,
            sparsity=sparsity,
            flop_price=price,
            seed=seed,
            test_loss=loss,
            test_ppl=math.exp(min(loss, 700.0)),
            delta_nll=loss - self.dense_loss,
            flops_kept=self.env.workbench.flop_table.total(active) / self.env.dense_flops,
            active_heads=int(active[:, : self.env.workbench.model.heads].sum()),
            seconds=seconds,
            evaluations=evaluations,
            active=active.tolist(),
        )

    def _bisect(self, options: dict[str, Any], label: str | None, sparsity: float, seed: int) -> Row:
        """Find the aggressiveness at which the rule prunes the wanted share, and score that episode."""
        started, misses = time.perf_counter(), self.env.workbench.memo.misses
        table, everything = self.env.workbench.flop_table, torch.ones(self.env.workbench.model.shape, dtype=torch.bool)
        by_flops = self.env.workbench.model.mlp_blocks > 0
        wanted: float = self.env.head_slots - round(sparsity * self.env.head_slots)
        if by_flops:
            wanted = table.total(everything) - sparsity * float(table.marginal(everything).sum())
        low, high, best = 0.0, 1.0, (math.inf, 0.0)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            active = self._roll(PlasticityController(**{**options, "aggressiveness": middle}), seed, None)
            left = table.total(active) if by_flops else float(active.sum())
            best = min(best, (abs(left - wanted), middle))
            if left == wanted:
                break
            low, high = (middle, high) if left > wanted else (low, middle)
        controller = PlasticityController(**{**options, "aggressiveness": best[1]})
        active = self._roll(controller, seed, None)
        seconds, evaluations = time.perf_counter() - started, self.env.workbench.memo.misses - misses
        return self._row(controller, active, label, seed, sparsity, None, seconds, evaluations)


def _fixed(name: str, options: dict[str, Any]) -> bool:
    """Whether the rule of thresholds is told where they lie, so that no share can be asked of it."""
    cuts = ("entropy_threshold", "gradient_threshold")
    return name == PlasticityController.name and (
        "aggressiveness" in options or all(options.get(cut) is not None for cut in cuts)
    )


def summarise(rows: list[Row]) -> list[dict[str, Any]]:
    """Mean and standard deviation over seeds of rows that differ in nothing else, in order of first appearance."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.controller, row.repair, row.sparsity, row.flop_price), []).append(row)
    table = []
    for (controller, repair, sparsity, price), members in groups.items():
        perplexities = [row.test_ppl for row in members]
        table.append(
            {
                "controller": controller,
                "repair": repair,
                "sparsity": sparsity,
                "flop_price": price,
                "seeds": len(members),
                "test_ppl": float(np.mean(perplexities)),
                "test_ppl_std": float(np.std(perplexities, ddof=1)) if len(members) > 1 else 0.0,
                "flops_kept": float(np.mean([row.flops_kept for row in members])),
                "active_heads": float(np.mean([row.active_heads for row in members])),
            }
        )
    return table


def results_json(arena: Arena, rows: list[Row], command: str, machine: str) -> dict[str, Any]:
    """What ``results.json`` holds: how it was made, the dense model, and every row."""
    settings = arena.env.settings
    return {
        "command": command,
        "machine": machine,
        "model": settings.model_name,
        "dataset": settings.dataset,
        "mode": settings.mode,
        "units": settings.units,
        "max_length": settings.max_length,
        "calibration_blocks": settings.calibration_blocks,
        "rounds": arena.protocol.rounds,
        "test_blocks": arena.protocol.test_blocks or len(arena.env.workbench.text.blocks("test")),
        "dense": {
            "test_loss": arena.dense_loss,
            "test_ppl": math.exp(arena.dense_loss),
            "flops": arena.env.dense_flops,
            "heads": arena.env.head_slots,
        },
        "rows": [asdict(row) for row in rows],
    }

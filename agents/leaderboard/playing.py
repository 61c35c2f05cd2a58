"""Playing cells: one model is loaded once, and all players of a seed share what was measured on it."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plasticity_env.agents.leaderboard.board_cells import Cell, Mask
from plasticity_env.agents.leaderboard.board_rules import Rules
from plasticity_env.agents.leaderboard.players import Player, fingerprint
from plasticity_env.common.errors import InputError
from plasticity_env.common.lru import Memo
from plasticity_env.controllers import Controller
from plasticity_env.controllers.planners.planner import MEASURING_PASS, Bill, Planner
from plasticity_env.data.text import some_blocks
from plasticity_env.envs.head_rank import HeadRankEnv
from plasticity_env.envs.measurement import Measurement
from plasticity_env.envs.observation import Observation
from plasticity_env.envs.shared_arrays import PackedModel, pack
from plasticity_env.model.loading import LoadedModel, check_device
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.signals.measure import sequence_losses

VERSION = 1  # of the environments that are played
DIGITS = 7  # of losses in the file, after the point


class CountingMemo(Memo[Measurement]):
    """A memo that all players share, and that counts what one of them asked for."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.asked: set[Hashable] = set()

    def get(self, key: Hashable) -> Measurement | None:
        self.asked.add(key)
        return super().get(key)


class Table:
    """A model, dense and loaded once, on which any player is played.

    Args:
        rules: Rules of all episodes.
        packed: The model and its text, where they are at hand; else they are loaded by name.

    Attributes:
        tested: (B, T) the test blocks of the rules.

    Raises:
        InputError: Nothing of that name, or model, text and rules do not fit each other.
    """

    def __init__(self, rules: Rules, packed: PackedModel | None = None) -> None:
        self.rules, self.board, self.packed = rules, rules.board, packed and packed.key
        self._opened = (None, None) if packed is None else packed.open(device=check_device(rules.settings.device))
        self._envs: dict[int, HeadRankEnv] = {}
        first = self.env(1)
        self.workbench = first.workbench
        self.workbench.memo = self._memo = CountingMemo(8192)
        blocks = self.workbench.text.blocks("test")
        if len(blocks) < rules.test_blocks:
            raise InputError(
                f"test_blocks {rules.test_blocks} is more than the {len(blocks)} of {rules.settings.dataset!r} at max_length "
                f"{rules.settings.max_length}: ask for fewer or use a longer text"
            )
        self.tested = some_blocks(blocks, rules.test_blocks, spread=True)
        self._dense: tuple[float, ...] | None = None

    def env(self, rounds: int) -> HeadRankEnv:
        """The environment of episodes with so many rounds; all measure on one workbench."""
        if rounds not in self._envs:
            loaded, text = self._opened
            self._envs[rounds] = HeadRankEnv(
                loaded=loaded,
                text=text,
                workbench=next(iter(self._envs.values())).workbench if self._envs else None,
                version=VERSION,
                **replace(self.rules.settings, horizon=rounds).kwargs(),
            )
        return self._envs[rounds]

    def blocks(self, seed: int) -> dict[str, list[int]]:
        """The calibration, reward and moment blocks that a seed draws."""
        text, settings = self.workbench.text, self.rules.settings
        drawn = {}
        for split, count, entropy in (
            ("calibration", settings.calibration_blocks, seed),
            ("reward", settings.reward_blocks, [seed, 1]),
        ):
            drawn[split] = text.draw(split, count, np.random.default_rng(entropy))  # type: ignore[arg-type]
        if settings.moment_blocks:
            random = np.random.default_rng([seed, 2])
            drawn["moments"] = text.draw("calibration", settings.moment_blocks, random, drawn["calibration"])
        return drawn

    def options(self, share: float, seed: int) -> dict[str, object]:
        """Reset options of a cell: its share, and the blocks that its seed draws."""
        return {"pruned_share": share, "flop_price": self.rules.settings.flop_price, **self.blocks(seed)}

    def play(self, player: Player, share: float, seed: int, maker: Controller | Planner | None = None) -> Cell:
        """Play one cell.

        Args:
            player: The player.
            share: Share of the units, to prune.
            seed: Seed of the blocks and of the player's randomness.
            maker: Who decides, where it is made already; the player's own when None.

        Raises:
            InputError: The player cannot be used.
        """
        maker = player.make() if maker is None else maker
        env = self.env(player.rounds)
        self._memo.asked = set()
        started = time.perf_counter()
        observation, _ = env.reset(seed=seed, options=self.options(share, seed))
        if isinstance(maker, Planner):
            maker.seed = seed
            masks, bill = [maker.plan(env)], maker.bill
        else:
            masks = _episode(env, maker, observation, seed)
            bill = self.bill(len(self._memo.asked))
        seconds = time.perf_counter() - started
        return self.score(player, fingerprint(player, maker), share, seed, masks, bill, seconds)

    def score(
        self, player: Player, fingerprint: str, share: float, seed: int, masks: list[Tensor], bill: Bill, seconds: float
    ) -> Cell:
        """Put the last of some masks onto the model, repaired, and evaluate it on the test text."""
        bench, active = self.workbench, masks[-1]
        dense = self.dense_losses()
        losses = self.losses_of(active, seed)
        return Cell(
            board=self.board,
            player=player.text,
            fingerprint=fingerprint,
            share=share,
            seed=seed,
            test_losses=losses,
            dense_losses=dense,
            flops_kept=bench.flop_table.total(active) / self.env(player.rounds).dense_flops,
            kept=tuple(tuple(layer) for layer in active.int().tolist()),
            rounds=tuple(mask_text(mask) for mask in masks),
            evaluations=bill.evaluations,
            forward_tokens=bill.forward_tokens,
            backward_tokens=bill.backward_tokens,
            seconds=round(seconds, 3),
            machine=machine(bench.model.device),
        )

    def bill(self, measured: int) -> Bill:
        """The bill of a controller that had this many masks measured."""
        settings = self.rules.settings
        read, paid = (settings.max_length * blocks for blocks in (settings.calibration_blocks, settings.reward_blocks))
        once = settings.max_length * settings.moment_blocks  # their moments are kept
        return Bill(MEASURING_PASS * measured, measured * (read + paid) + once, measured * read)

    def masks_of(self, rounds: int, options: dict[str, object], actions: Sequence[Any]) -> list[Tensor]:
        """(L, U) mask after every action of an episode."""
        env, masks = self.env(rounds), []
        env.reset(seed=0, options=options)
        for action in actions:
            masks.append(env.preview(np.array(action)))
            env.step(np.array(action))
        return masks

    def dense_losses(self) -> tuple[float, ...]:
        """The whole model's loss on each test block, nats per token."""
        if self._dense is None:
            self.workbench.install(torch.ones(self.workbench.model.shape, dtype=torch.bool), ())
            self._dense = block_losses(self.workbench.model, self.tested, self.rules.settings.batch_size)
        return self._dense

    def losses_of(self, active: Tensor, seed: int, ids: Tensor | None = None) -> tuple[float, ...]:
        """Loss of each block, nats per token, of an (L, U) mask that is repaired with the blocks that a seed draws.

        Args:
            active: The mask.
            seed: Seed of the calibration blocks.
            ids: (B, T) tokens; the test blocks when None.
        """
        drawn = self.blocks(seed)
        self.workbench.install(active, tuple(drawn.get("moments") or drawn["calibration"]))
        return block_losses(self.workbench.model, self.tested if ids is None else ids, self.rules.settings.batch_size)


def _episode(env: HeadRankEnv, controller: Controller, observation: Observation, seed: int) -> list[Tensor]:
    """(L, U) mask after every round of an episode that has begun; what the last decision leads to is not measured."""
    controller.reset(seed)
    masks = []
    for left in range(env.settings.horizon - 1, -1, -1):
        action = controller.act(observation)
        masks.append(env.preview(action))
        if left:
            observation, *_ = env.step(action)
    return masks


def packed_of(rules: Rules) -> PackedModel:
    """The model and the text of some rules, to be handed to tables in other processes.

    Raises:
        InputError: If the model or its text cannot be read (see `Table`).
    """
    bench = Table(replace(rules, settings=replace(rules.settings, device="cpu"))).workbench
    return pack(LoadedModel(bench.model, bench.tokenizer, bench.name), bench.text, ("calibration", "reward", "test"))


@torch.no_grad()
def block_losses(model: PlasticModel, ids: Tensor, batch_size: int) -> tuple[float, ...]:
    """Loss of each of (B, T) blocks, nats per token, of a model as it is."""
    chunks = [sequence_losses(model, chunk.to(model.device)).double().cpu() for chunk in ids.split(batch_size)]
    return tuple(round(loss, DIGITS) for loss in torch.cat(chunks).tolist())


def mask_text(active: Tensor) -> Mask:
    """A string of 0 and 1 for each layer of an (L, U) mask."""
    return tuple("".join(map(str, layer)) for layer in active.int().tolist())


def machine(device: torch.device) -> str:
    """What a cell was played on."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"

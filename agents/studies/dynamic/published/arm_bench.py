"""What all arms of one draw share: texts, the bank of our own structures, prefixes, dense losses and the budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from plasticity_env.agents.studies.dynamic.published.arm_cells import ArmSetting
from plasticity_env.agents.studies.dynamic.published.removable import Removable
from plasticity_env.data.text import TextSplits
from plasticity_env.dynamic.bank import StructureBank
from plasticity_env.dynamic.fitting import MIXTURE, cheapest
from plasticity_env.dynamic.prefix import PrefixReader, PrefixView
from plasticity_env.dynamic.route_table import routed_losses
from plasticity_env.dynamic.structure import Structure, repair_of
from plasticity_env.dynamic.text_masks import masked_losses
from plasticity_env.model.flops import flop_table
from plasticity_env.model.loading import LoadedModel
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.signals.text_sums import TextSums, gather_sums

GRID = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # shares of the heads that static structures prune


@dataclass(frozen=True)
class Outcome:
    """What an arm came to: (N,) rises of the loss, and (N,) FLOPs over the dense model's, of the test texts."""

    rises: Tensor
    kept: Tensor


class ArmBench:
    """One model, its texts and one calibration draw.

    Args:
        loaded: The model; whole MLPs can go where it has one MLP block a layer.
        texts: Splits by kind.
        shares: Shares of the heads that go.
        setting: Settings of the study.
        draw: Seed of the draw.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        texts: Mapping[str, TextSplits],
        shares: tuple[float, ...],
        setting: ArmSetting,
        draw: int,
    ) -> None:
        self.model: PlasticModel = loaded.model
        self.name, self.shares, self.setting, self.draw = loaded.name, shares, setting, draw
        self.calibration = {kind: text.drawn("calibration", setting.blocks, draw) for kind, text in texts.items()}
        self.train = {kind: text.drawn("train", setting.train_texts, draw) for kind, text in texts.items()}
        self.test = {kind: text.drawn("test", setting.test_texts, 0) for kind, text in texts.items()}
        self.table = flop_table(self.model, setting.max_length)
        self.dense_flops = float(self.table.total(torch.ones(self.model.shape, dtype=torch.bool)))
        self.reader = PrefixReader(self.model)

    # -- texts ---------------------------------------------------------------------------------------------------------

    @cached_property
    def ids(self) -> Tensor:
        """(N, T) all test texts."""
        return torch.cat(list(self.test.values()))

    @cached_property
    def fitted_ids(self) -> Tensor:
        """(M, T) all calibration texts."""
        return torch.cat(list(self.calibration.values()))

    @cached_property
    def dense_losses(self) -> Tensor:
        """(N,) losses of the dense model after the prefix."""
        return self.losses(torch.ones(len(self.ids), *self.model.shape, dtype=torch.bool))

    def losses(self, masks: Tensor) -> Tensor:
        """(N,) losses of the test texts after a dense prefix, each under its own (N, L, U) mask."""
        prefix = self.setting.prefix_tokens
        return masked_losses(self.model, self.ids, masks, dense_tokens=prefix, first=prefix)

    def prefixes(self, ids: Tensor) -> PrefixView:
        """What the first tokens of texts tell."""
        return self.reader.read(ids[:, : self.setting.prefix_tokens])

    @cached_property
    def test_prefixes(self) -> PrefixView:
        """The same of the test texts."""
        return self.prefixes(self.ids)

    # -- our structures --------------------------------------------------------------------------------------------------

    @cached_property
    def sums(self) -> dict[str, TextSums]:
        """What each kind's calibration texts say of the heads; under ``"mixture"`` all of them together."""
        found: dict[str, TextSums] = {}
        for kind, ids in self.calibration.items():
            sums = gather_sums(self.model, ids)
            sites = {index: of for index, of in sums.sites.items() if self.model.sites[index].kind == "attention"}
            found[kind] = TextSums(sites, sums.tokens, sums.graded, sums.loss, sums.sequences)
        together = list(found.values())
        found[MIXTURE] = sum(together[1:], start=together[0])
        return found

    def fitted(self, label: str, shares: tuple[float, ...]) -> list[Structure]:
        """Structures of one kind's texts, or of the mixture: heads by price, with least-squares repair."""
        marginal = self.table.marginal(torch.ones(self.model.shape, dtype=torch.bool))
        priority = (-self.sums[label].prices(self.model) / marginal)[:, : self.model.heads]
        found = []
        for share in shares:
            active = torch.ones(self.model.shape, dtype=torch.bool)
            active[:, : self.model.heads] = cheapest(priority, share, self.table, True, self.model.heads)
            found.append(self.structure(f"{label}@{share:g}", active, label, share, repaired=label))
        return found

    def structure(self, name: str, active: Tensor, label: str, share: float, repaired: str = "") -> Structure:
        """A structure of a mask, with the least-squares repair of a kind's texts where one is named."""
        mixes = repair_of(self.model, active, self.sums[repaired].statistics) if repaired else {}
        return Structure(name, active, mixes, label, share)

    @cached_property
    def bank(self) -> StructureBank:
        """Structures of every kind and of the mixture at the shares of the study."""
        bank = StructureBank(self.model)
        for label in (*self.calibration, MIXTURE):
            for structure in self.fitted(label, self.shares):
                bank.add(structure)
        for kind, ids in self.calibration.items():
            bank.prefixes[kind] = self.prefixes(ids).pooled.cpu()
        return bank

    # -- costs -----------------------------------------------------------------------------------------------------------

    def budget(self, share: float) -> float:
        """FLOPs per token that every arm comes as near to as it can: those of the kinds' own structures in the mean."""
        return float(
            np.mean([self.table.total(self.bank[self.bank.find(kind, share)].active) for kind in self.calibration])
        )

    def removable(self, kind: str) -> Removable:
        """What can go, at the cost of FLOPs."""
        return Removable.of(self.model, kind, self.table)

    def outcome(
        self, losses: Tensor, masks: Tensor, extra: Tensor | float = 0.0, dense_tokens: int | None = None
    ) -> Outcome:
        """Rises and FLOPs of the test texts.

        Args:
            losses: (N,) after the prefix.
            masks: (N, L, U) under which they ran.
            extra: FLOPs a text besides: router, probes, reading the prefix.
            dense_tokens: Tokens that ran dense; None: the prefix.
        """
        tokens, dense = self.setting.max_length, self.setting.prefix_tokens if dense_tokens is None else dense_tokens
        spent = dense * self.dense_flops + (tokens - dense) * self.table.totals(masks) + extra
        return Outcome(losses.double() - self.dense_losses.double(), spent / (tokens * self.dense_flops))

    def played(self, bank: StructureBank, picked: Tensor, router_flops: float) -> Outcome:
        """The test texts after a dense prefix under the structures of a bank that a router picked."""
        losses = torch.empty(len(self.ids))
        for number in picked.unique().tolist():
            mine = picked == number
            losses[mine] = routed_losses(bank, self.ids[mine], number, self.setting.prefix_tokens)
        masks = torch.stack([structure.active for structure in bank])[picked]
        return self.outcome(losses, masks, self.reader.flops + router_flops)

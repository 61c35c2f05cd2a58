"""A bank without labels: sequences are clustered by what they tell, then each goes to the structure that serves it best."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plasticity_env.common.errors import InputError, check_least
from plasticity_env.common.packages import require
from plasticity_env.dynamic.bank import StructureBank
from plasticity_env.dynamic.fitting import MIXTURE, fit_structures
from plasticity_env.dynamic.nearest import NearestTexts
from plasticity_env.dynamic.prefix import PrefixReader, PrefixView
from plasticity_env.dynamic.route_table import routed_losses, static_losses
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.signals.text_sums import TextSums, gather_sums

LEAST = 4  # sequences of a cluster: fewer get no structure of their own, and move on to the others'


def cluster_bank(
    model: PlasticModel,
    input_ids: Tensor,
    shares: Sequence[float] = (0.1, 0.3, 0.5),
    *,
    clusters: Sequence[int] = (2, 4, 8),
    held_out: float = 0.25,
    rounds: int = 3,
    prefix_tokens: int = 32,
    seed: int = 0,
    sampled: bool = False,
    batch_size: int = 4,
) -> StructureBank:
    """A bank from texts whose kinds nobody knows, by hard expectation maximisation (an assignment is one structure).

    Sequences are grouped by k-means of their own hidden states, loss and entropy. Then, round by round at the largest share,
    a structure is fitted to each group and every sequence moves to the structure under which its loss is lowest. Held-out
    sequences, which the router places by their first tokens alone, say when to stop and how many clusters serve best. Then they
    go to the structures that serve them best, and all structures are fitted once more, to all sequences.

    Args:
        model: The dense model.
        input_ids: (n, T) token ids.
        shares: Shares of the units that go.
        clusters: Numbers of clusters that are tried.
        held_out: Share of the sequences that nothing is fitted on until the clusters stand.
        rounds: Most rounds of moving.
        prefix_tokens: Tokens that a router looks at.
        seed: Seed of the split and of k-means.
        sampled: Price units by tokens that the model draws.
        batch_size: Sequences in one pass.

    Returns:
        The bank; its labels are ``"cluster0"``, ``"cluster1"``, ..., and ``"mixture"``.

    Raises:
        InputError: Too few sequences for the clusters, or scikit-learn is not installed.
    """
    require("sklearn", "dynamic")
    order = torch.randperm(len(input_ids), generator=torch.Generator().manual_seed(seed))
    aside = round(held_out * len(input_ids))
    fitted, kept = input_ids[order[aside:]], input_ids[order[:aside]]
    for count in clusters:
        check_least("clusters", count, 1)
        if len(fitted) < LEAST * count or not aside:
            raise InputError(
                f"{len(input_ids)} sequences are too few for {count} clusters with {held_out:g} held out: give at least "
                f"{LEAST} to each, or ask for fewer clusters"
            )
    maker = _Maker(model, fitted, kept, shares, rounds, prefix_tokens, seed, sampled, batch_size)
    tried = [maker.best(count) for count in clusters]
    _, bank, groups = min(tried, key=lambda found: found[0])
    return maker.whole(bank, groups)


class _Maker:
    """Tries numbers of clusters on the same sequences."""

    def __init__(
        self,
        model: PlasticModel,
        fitted: Tensor,
        kept: Tensor,
        shares: Sequence[float],
        rounds: int,
        prefix_tokens: int,
        seed: int,
        sampled: bool,
        batch_size: int,
    ) -> None:
        self._model, self._fitted, self._kept, self._shares = model, fitted, kept, shares
        self._rounds, self._prefix, self._seed, self._sampled = rounds, prefix_tokens, seed, sampled
        self._batch = batch_size
        reader = PrefixReader(model)
        self._prefixes = reader.read(torch.cat([fitted, kept])[:, :prefix_tokens], batch_size).pooled.cpu()
        self._held: PrefixView = reader.read(kept[:, :prefix_tokens], batch_size)
        whole = reader.read(fitted, batch_size).features
        self._features = (whole - whole.mean(0)) / whole.std(0).clamp(min=1e-6)
        self._sums: dict[bytes, TextSums] = {}  # by members

    def best(self, count: int) -> tuple[float, StructureBank, Tensor]:
        """Held-out loss, at the largest share, the bank of the best round, and the cluster of each fitted sequence."""
        from sklearn.cluster import KMeans

        found = KMeans(count, n_init=10, random_state=self._seed).fit(self._features.numpy())
        groups = torch.from_numpy(found.labels_).long()
        best: tuple[float, StructureBank, Tensor] | None = None
        for _ in range(self._rounds + 1):
            bank = self._bank(groups)
            loss = self._held_loss(bank)
            if best is not None and loss >= best[0]:
                break
            best = loss, bank, groups
            moved = self._served_best(bank, groups, self._fitted)
            if bool((moved == groups).all()):
                break
            groups = moved
        assert best is not None
        return best

    def whole(self, bank: StructureBank, groups: Tensor) -> StructureBank:
        """A bank of the same clusters that is fitted to the held-out sequences as well."""
        return self._bank(torch.cat([groups, self._served_best(bank, groups, self._kept)]))

    def _served_best(self, bank: StructureBank, groups: Tensor, ids: Tensor) -> Tensor:
        """(n,) the cluster under whose structure of the largest share each sequence loses least."""
        large = list(_members(groups))
        numbers = [bank.find(f"cluster{number}", max(self._shares)) for number in large]
        served = [static_losses(bank, ids, number, 1, self._batch)[0] for number in numbers]
        return torch.tensor(large)[torch.stack(served, 1).argmin(1)]

    def _bank(self, groups: Tensor) -> StructureBank:
        bank, together = StructureBank(self._model), None
        large = _members(groups)
        for number in groups.unique().tolist():
            sums = self._gathered((groups == number).nonzero().flatten())
            together = sums if together is None else together + sums
            if number not in large:
                continue
            for structure in fit_structures(self._model, sums, self._shares, self._fitted.shape[1], f"cluster{number}"):
                bank.add(structure)
            bank.prefixes[f"cluster{number}"] = self._prefixes[large[number]]
        assert together is not None
        for structure in fit_structures(self._model, together, self._shares, self._fitted.shape[1], MIXTURE):
            bank.add(structure)
        return bank

    def _gathered(self, members: Tensor) -> TextSums:
        key = members.numpy().tobytes()
        if key not in self._sums:
            ids = torch.cat([self._fitted, self._kept])[members]
            self._sums[key] = gather_sums(self._model, ids, sampled=self._sampled, batch_size=self._batch)
        return self._sums[key]

    def _held_loss(self, bank: StructureBank) -> float:
        """Mean loss of held-out sequences, each under what the router picks."""
        picked, losses = NearestTexts(bank, max(self._shares)).pick(self._held), []
        for number in picked.unique().tolist():
            mine = self._kept[picked == number]
            losses.append(routed_losses(bank, mine, number, self._prefix, self._batch))
        return float(torch.cat(losses).double().mean())


def _members(groups: Tensor) -> dict[int, Tensor]:
    """Numbers of the sequences of each group that is large enough for a structure of its own."""
    found = {number: (groups == number).nonzero().flatten() for number in groups.unique().tolist()}
    return {number: members for number, members in found.items() if len(members) >= LEAST}

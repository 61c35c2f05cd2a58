"""From texts to structures: price the units once, then a mask and a repair for every share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.common.values import check_number
from plasticity_env.dynamic.bank import StructureBank
from plasticity_env.dynamic.prefix import PrefixReader
from plasticity_env.dynamic.structure import Structure, repair_of
from plasticity_env.dynamic.token_routes import TokenRoutes
from plasticity_env.model.flops import CostTable, flop_table
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.signals.text_sums import TextSums, gather_sums

MIXTURE = "mixture"


def build_bank(
    model: PlasticModel,
    texts: Mapping[str, Tensor],
    shares: Sequence[float] = (0.1, 0.3, 0.5),
    *,
    mixture: bool = True,
    sampled: bool = False,
    prefix_tokens: int = 32,
    batch_size: int = 4,
) -> StructureBank:
    """A structure for every kind of text and share, and one a share for all texts together.

    Args:
        model: The dense model.
        texts: (n, T) token ids of each kind of text, by label; T is the same for all.
        shares: Shares of the units that go: by number where heads are the only units, else by FLOPs.
        mixture: Also fit structures on all texts together, labelled ``"mixture"``; they cost no further pass.
        sampled: Price units by tokens that the model draws, not by the text's own.
        prefix_tokens: Tokens from the start of each text that routers will compare with; they are read in the dense model and
            under the mixture's structures.
        batch_size: Sequences in one pass.

    Returns:
        The bank; structures are called ``"label@share"``.

    Raises:
        InputError: No text, texts of several lengths, a share outside (0, 1), or what `StructureBank` refuses.
    """
    if not texts or len({tuple(ids.shape[1:]) for ids in texts.values()}) != 1:
        raise InputError("texts must be (n, T) token ids by label, at least one, T the same for all")
    if MIXTURE in texts:
        raise InputError(
            f"{MIXTURE!r} is what structures of all texts together are called: give the text another label"
        )
    bank, reader = StructureBank(model), PrefixReader(model)
    seq_len = next(iter(texts.values())).shape[1]
    together: TextSums | None = None
    for label, ids in texts.items():
        sums = gather_sums(model, ids, sampled=sampled, batch_size=batch_size)
        together = sums if together is None else together + sums
        for structure in fit_structures(model, sums, shares, seq_len, label):
            bank.add(structure)
        bank.prefixes[label] = reader.read(ids[:, :prefix_tokens], batch_size).pooled.cpu()
    if mixture and together is not None:
        for structure in fit_structures(model, together, shares, seq_len, MIXTURE):
            bank.add(structure)
            with TokenRoutes(model, [structure]).along(torch.zeros_like):
                bank.pruned_prefixes[structure.name] = {
                    label: reader.read(ids[:, :prefix_tokens], batch_size).pooled.cpu() for label, ids in texts.items()
                }
    return bank


def fit_structures(
    model: PlasticModel, sums: TextSums, shares: Sequence[float], seq_len: int, label: str = ""
) -> list[Structure]:
    """Structures at several shares from what is known of a text.

    Units go by their price in turn, per FLOP; the least-squares repair is that of the same text.

    Args:
        model: Dense; left as it is.
        sums: Sums of the text, with gradients.
        shares: Shares of the units that go.
        seq_len: T, on which the FLOPs of a head depend.
        label: What the text is called.
    """
    for share in shares:
        check_number("share", share, 0, 1)
    table = flop_table(model, seq_len)
    costs = table.marginal(torch.ones(model.shape, dtype=torch.bool))
    priority, statistics = -sums.prices(model) / costs, sums.statistics
    found = []
    for share in shares:
        active = cheapest(priority, share, table, by_number=not model.mlp_blocks, heads=model.heads)
        name = f"{label}@{share:g}" if label else f"{share:g}"
        found.append(Structure(name, active, repair_of(model, active, statistics), label, float(share)))
    return found


def cheapest(priority: Tensor, share: float, table: CostTable, by_number: bool, heads: int) -> Tensor:
    """The mask without the units of highest priority: a share of their number, or of their FLOPs.

    Args:
        priority: (L, U) priorities.
        share: Share in [0, 1).
        table: Table of FLOPs.
        by_number: Whether units count alike.
        heads: Columns that are heads; one of the whole model always stays.

    Returns:
        (L, U) boolean, True for units that stay.
    """
    order = priority.flatten().argsort(descending=True, stable=True)
    is_head = (torch.arange(priority.shape[1]) < heads).expand(priority.shape).flatten()
    order = order[order != int(order[is_head[order]][-1])]  # the last head that would go stays
    gone = torch.zeros(priority.numel(), dtype=torch.bool)
    if by_number:
        gone[order[: round(share * priority.numel())]] = True
        return ~gone.view(priority.shape)
    low, high = 0, len(order)
    everything = torch.ones(priority.shape, dtype=torch.bool)
    owned = table.total(everything) - table.base
    while low < high:  # the most units whose FLOPs are within the share
        middle = (low + high + 1) // 2
        gone.zero_()
        gone[order[:middle]] = True
        spent = table.total(everything) - table.total(~gone.view(priority.shape))
        low, high = (middle, high) if spent <= share * owned + 1e-9 else (low, middle - 1)
    gone.zero_()
    gone[order[:low]] = True
    return ~gone.view(priority.shape)

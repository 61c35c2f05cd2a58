"""What every structure of a bank would cost every text: measured once, so that routers learn without running the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from plasticity_env.common.digests import checked_folder, write_manifest
from plasticity_env.common.errors import InputError, first_line
from plasticity_env.common.files import ZOO_FOLDER, new_folder, write_text
from plasticity_env.common.shipped_folders import folder_or_shipped
from plasticity_env.common.values import user_path
from plasticity_env.dynamic.bank import StructureBank
from plasticity_env.dynamic.nearest import TextDistances
from plasticity_env.dynamic.prefix import PrefixReader
from plasticity_env.dynamic.prefix_signals import PREFIX_SIGNALS, prefix_signals, signals_flops
from plasticity_env.dynamic.token_routes import TokenRoutes
from plasticity_env.model.contexts import evaluating

SHIPPED = ZOO_FOLDER / "routes"
DESCRIPTION = "routes.json"
FORMAT = 1
ARRAYS = ("kind", "features", "loss", "static_loss", "probe", "distance")
SIGNALS = "signals"  # an array that only some tables have


@dataclass(frozen=True)
class RouteTable:
    """N texts of T tokens and K structures; the arrays may lie in memory-mapped files.

    Losses are nats per token over the tokens after the prefix, the same ones for every structure and both ways.

    Attributes:
        kind: (N,) integers, which of ``kinds`` a text is; no agent sees it.
        features: (N, 34) float32, `PrefixView.features` of the dense prefix.
        loss: (N, K) with the prefix run dense and the rest under a structure.
        static_loss: (N, K) with the whole text under a structure; NaN where that was not measured.
        probe: (N, K) loss over the prefix when it runs under a structure.
        distance: (N, k) distance of a prefix to the k kinds that the bank's structures were fitted on; k = 0 for none.
        kinds: Names of the kinds of text.
        structures: Names of the structures.
        labels, shares: What each structure was fitted on, and what it prunes.
        flops: (K,) forward FLOPs per token of each structure, the dense one's first.
        kv_bytes: (K,) bytes a token adds to the KV cache.
        reader_flops: FLOPs of reading a prefix, once a text; with signals, those of measuring them too.
        tokens, prefix_tokens: T and P.
        model: Name of the model.
        signals: (N, L, U, 3) float32, `prefix_signals` of the dense prefix; None where they were not measured.
    """

    kind: np.ndarray
    features: np.ndarray
    loss: np.ndarray
    static_loss: np.ndarray
    probe: np.ndarray
    distance: np.ndarray
    kinds: tuple[str, ...]
    structures: tuple[str, ...]
    labels: tuple[str, ...]
    shares: tuple[float, ...]
    flops: tuple[float, ...] = field(repr=False)
    kv_bytes: tuple[float, ...] = field(repr=False)
    reader_flops: float
    tokens: int
    prefix_tokens: int
    model: str
    signals: np.ndarray | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.kind)

    def __post_init__(self) -> None:
        texts, structures = len(self.kind), len(self.structures)
        wanted = {
            "kind": (texts,),
            "features": (texts, self.features.shape[-1]),
            "loss": (texts, structures),
            "static_loss": (texts, structures),
            "probe": (texts, structures),
            "distance": (texts, self.distance.shape[-1]),
        }
        if self.signals is not None:
            wanted[SIGNALS] = (texts, *self.signals.shape[1:3], len(PREFIX_SIGNALS))
        for name, shape in wanted.items():
            if getattr(self, name).shape != shape:
                raise InputError(f"a route table's {name} must be {shape}, got {getattr(self, name).shape}")
        finite = [name for name in self.arrays if name != "static_loss"]
        if not texts or not all(np.isfinite(getattr(self, name)).all() for name in finite):
            raise InputError("a route table needs at least one text, and finite numbers everywhere")

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of the arrays, one row a text, that this table has."""
        return ARRAYS if self.signals is None else (*ARRAYS, SIGNALS)

    def flops_kept(self, structures: np.ndarray, probes: np.ndarray | float = 0.0) -> np.ndarray:
        """(...) FLOPs of a text over the dense model's: prefix, the rest under each structure, and the prefix once a probe.

        Args:
            structures: (...) numbers of structures.
            probes: FLOPs of the probes that were run, in tokens of the dense model.
        """
        share = np.asarray(self.flops)[structures] / self.flops[0]
        prefix = self.prefix_tokens + self.reader_flops / self.flops[0] + probes
        kept: np.ndarray = (prefix + (self.tokens - self.prefix_tokens) * share) / self.tokens
        return kept

    def static_flops_kept(self, structures: np.ndarray) -> np.ndarray:
        """(...) the same where the whole text runs under one structure."""
        kept: np.ndarray = np.asarray(self.flops)[structures] / self.flops[0]
        return kept

    def rows(self, numbers: np.ndarray) -> RouteTable:
        """Some of the texts."""
        return RouteTable(**{**vars(self), **{name: getattr(self, name)[numbers] for name in self.arrays}})

    # -- files ---------------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write one ``.npy`` file an array, ``routes.json`` and digests.

        Raises:
            InputError: Something else lies there.
        """
        path = user_path(folder, "a route table")
        said = {
            "format": FORMAT,
            **{name: value for name, value in vars(self).items() if name not in (*ARRAYS, SIGNALS)},
        }
        with new_folder(path, replace=(path / DESCRIPTION).is_file()) as temporary:
            for name in self.arrays:
                np.save(temporary / f"{name}.npy", np.ascontiguousarray(getattr(self, name)), allow_pickle=False)
            write_text(temporary / DESCRIPTION, json.dumps(said, indent=1) + "\n")
            write_manifest(temporary, DESCRIPTION, "*.npy")

    @classmethod
    def load(cls, folder: str | Path) -> RouteTable:
        """Read what `save` wrote; the arrays stay on disk until they are read.

        Args:
            folder: The folder, or the name of an embedded model whose table comes with the package.

        Raises:
            InputError: No table there, or a damaged one.
        """
        path = folder_or_shipped(folder, "a route table", {name: SHIPPED / name for name in shipped_tables()})
        if not (path / DESCRIPTION).is_file():
            raise InputError(
                f"no route table at {str(path)!r} (no {DESCRIPTION}): make one with measure_routes(...).save(folder), or name "
                f"one of the package's: {', '.join(shipped_tables())}"
            )
        try:
            with checked_folder(path):
                said: dict[str, Any] = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
                if said.pop("format") != FORMAT:
                    raise InputError("a newer version wrote it")
                said = {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}
                there = (*ARRAYS, SIGNALS) if (path / f"{SIGNALS}.npy").is_file() else ARRAYS
                arrays = {name: np.load(path / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in there}
                return cls(**said, **arrays)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"the route table at {str(path)!r} is damaged ({first_line(error)})") from error


def shipped_tables() -> list[str]:
    """Names of the models whose route tables come with the package."""
    return sorted(folder.name for folder in SHIPPED.iterdir() if (folder / DESCRIPTION).is_file())


def measure_routes(
    bank: StructureBank,
    texts: Mapping[str, Tensor],
    *,
    prefix_tokens: int = 32,
    batch_size: int = 8,
    model: str = "",
    all_static: bool = True,
    signals: bool = False,
) -> RouteTable:
    """Run every text under every structure.

    Args:
        bank: Bank of structures.
        texts: (n, T) token ids by kind; T is the same for all.
        prefix_tokens: P, at least 1 and less than T.
        batch_size: Sequences in one pass.
        model: Name of the model, for reports.
        all_static: Run whole texts under every structure; else, which takes half the time, of each share only under the one
            whose mean loss after dense prefixes is lowest.
        signals: Also note `prefix_signals`, for agents of ``plasticity/Route-v0`` with ``signals=True``.

    Raises:
        InputError: No text, or texts of several lengths.
    """
    lengths = {int(ids.shape[1]) for ids in texts.values()}
    if len(lengths) != 1:
        raise InputError("texts must be (n, T) token ids by kind, at least one, T the same for all")
    (tokens,) = lengths
    if not 1 <= prefix_tokens < tokens:
        raise InputError(f"prefix_tokens must lie in [1, {tokens}), the length of the texts, got {prefix_tokens}")
    ids = torch.cat(list(texts.values()))
    kind = np.repeat(np.arange(len(texts), dtype=np.int64), [len(each) for each in texts.values()])
    reader = PrefixReader(bank.model)
    view = reader.read(ids[:, :prefix_tokens], batch_size)
    routed = torch.stack([routed_losses(bank, ids, k, prefix_tokens, batch_size) for k in range(len(bank))], 1)
    whole = set(range(len(bank)))
    if not all_static:
        by_share: dict[float, list[int]] = {}
        for number, structure in enumerate(bank):
            by_share.setdefault(structure.share, []).append(number)
        whole = {min(numbers, key=lambda k: float(routed[:, k].mean())) for numbers in by_share.values()}
    static, probe = torch.full_like(routed, torch.nan), torch.empty_like(routed)
    for number in range(len(bank)):
        if number in whole:
            static[:, number], probe[:, number] = static_losses(bank, ids, number, prefix_tokens, batch_size)
        elif prefix_tokens > 1:
            probe[:, number] = static_losses(bank, ids[:, :prefix_tokens], number, 1, batch_size)[0]
        else:
            probe[:, number] = 0.0
    return RouteTable(
        kind=kind,
        features=view.features.numpy(),
        loss=routed.numpy(),
        static_loss=static.numpy(),
        probe=probe.numpy(),
        distance=TextDistances(bank).to(view).numpy(),
        kinds=tuple(texts),
        structures=tuple(bank.names),
        labels=tuple(structure.label for structure in bank),
        shares=tuple(structure.share for structure in bank),
        flops=tuple(bank.flops(tokens).tolist()),
        kv_bytes=tuple(bank.kv_bytes().tolist()),
        reader_flops=reader.flops + (signals_flops(bank.model, prefix_tokens) if signals else 0.0),
        tokens=tokens,
        prefix_tokens=prefix_tokens,
        model=model,
        signals=prefix_signals(bank.model, ids[:, :prefix_tokens], batch_size).numpy() if signals else None,
    )


def routed_losses(
    bank: StructureBank, ids: Tensor, number: int, prefix_tokens: int, batch_size: int = 8, prefix_structure: int = 0
) -> Tensor:
    """(n,) losses over the tokens after a prefix, which runs dense or under another structure, the rest under one structure."""

    def route_of(places: Tensor) -> Tensor:
        return torch.where(places < prefix_tokens, prefix_structure, number)

    return torch.cat([_split(losses, prefix_tokens)[1] for losses in _losses(bank, ids, route_of, batch_size)])


def static_losses(
    bank: StructureBank, ids: Tensor, number: int, prefix_tokens: int, batch_size: int = 8
) -> tuple[Tensor, Tensor]:
    """(n,) losses over the tokens after the prefix, and over the prefix, of texts that run under one structure."""
    parts = [
        _split(losses, prefix_tokens)
        for losses in _losses(bank, ids, lambda places: torch.full_like(places, number), batch_size)
    ]
    return torch.cat([after for _, after in parts]), torch.cat([before for before, _ in parts])


@torch.no_grad()
def _losses(bank: StructureBank, ids: Tensor, route_of: Any, batch_size: int) -> list[Tensor]:
    """(b, T - 1) losses of every predicted token, batch by batch."""
    model, routes, found = bank.model, TokenRoutes(bank.model, list(bank)), []
    with evaluating(model.model), routes.along(route_of):
        for chunk in ids.split(batch_size):
            batch = chunk.to(model.device)
            logits = model.model(input_ids=batch, use_cache=False).logits[:, :-1]
            losses = F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten(), reduction="none")
            found.append(losses.view(len(batch), -1).cpu())
    return found


def _split(losses: Tensor, prefix_tokens: int) -> tuple[Tensor, Tensor]:
    """(b,) means over the prefix's own tokens (0 for a prefix of one) and over those after it."""
    before, after = losses[:, : prefix_tokens - 1], losses[:, prefix_tokens - 1 :]
    return before.sum(1) / max(1, before.shape[1]), after.mean(1)

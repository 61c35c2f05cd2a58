"""Moments of calibration texts in a model's dense stream: gathered when they are asked for, kept while there is room."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.signals.measure import gather_many
from plasticity_env.signals.moment_files import MomentFiles
from plasticity_env.signals.moments import Moments

OfSite = Callable[[int], Moments]  # index in `PlasticModel.sites` -> ``gram`` (n, I, I) and ``mean`` (n, I) of n texts


class DenseMoments:
    """What repairs and residual scores read.

    Args:
        model: Model whose dense stream it is.
        texts: How many texts are kept; the one that was not used for longest goes first.
        packed: Keep the upper triangle in float32, a quarter of the matrix in float64.
        files: A folder that is looked up before a text is read, and keeps what was gathered; None for none.
    """

    def __init__(self, model: PlasticModel, texts: int, packed: bool = False, files: MomentFiles | None = None) -> None:
        self._model, self._room, self._packed, self._files = model, texts, packed, files
        self._held: OrderedDict[Hashable, dict[int, tuple[Tensor, Tensor]]] = OrderedDict()
        self._staying: set[Hashable] = set()

    def of(self, texts: Sequence[Hashable], ids: Tensor, batch_size: int) -> OfSite:
        """Moments of n texts: those that are kept, or those of one forward over all of them.

        Args:
            texts: Names; the same name means the same tokens.
            ids: (n, B, T) token ids.
            batch_size: Sequences of each text in one pass.
        """
        keys = [self._key(text) for text in texts]
        if all(key in self._held for key in keys):
            held = [self._held[key] for key in keys]
            for key in keys:
                self._held.move_to_end(key)
            return lambda site: self._joined([each[site] for each in held])
        found = self._gathered(ids, batch_size)
        self.put(texts, found)
        return found.__getitem__

    def _gathered(self, ids: Tensor, batch_size: int) -> dict[int, Moments]:
        """Gather the moments of n texts at once; with a folder one by one, from there as far as it has them."""
        if self._files is None:
            with self._model.dense():
                return gather_many(self._model, ids, batch_size)
        parts = []
        for text in ids:
            with self._model.dense():  # whose weights name the file
                part = self._files.get(text)
                if part is None:
                    found = gather_many(self._model, text[None], batch_size)
                    part = {site: Moments(of.gram[0], of.mean[0]) for site, of in found.items()}
                    self._files.put(text, part)
            parts.append(part)
        device = self._model.device
        return {
            site: Moments(
                *(torch.stack([getattr(p[site], name) for p in parts]).to(device) for name in ("gram", "mean"))
            )
            for site in parts[0]
        }

    def knows(self, text: Hashable) -> bool:
        """Whether a text's moments are kept, of the present weights."""
        return self._key(text) in self._held

    def put(self, texts: Sequence[Hashable], moments: dict[int, Moments]) -> None:
        """Keep the moments of n texts, as far as there is room."""
        for number, key in enumerate(map(self._key, texts)):
            if len(self._held) >= self._room and key not in self._held:
                self._held.pop(next((old for old in self._held if old not in self._staying), None), None)
            if len(self._held) < self._room and key not in self._held:
                self._held[key] = {site: self._cut(of, number) for site, of in moments.items()}

    def keep_only(self, texts: Collection[Hashable]) -> None:
        """Forget all other texts; these stay until the next call."""
        self._staying = {self._key(text) for text in texts}
        for key in [key for key in self._held if key not in self._staying]:
            del self._held[key]

    def _key(self, text: Hashable) -> Hashable:
        return text, self._model.weight_version

    def _cut(self, moments: Moments, text: int) -> tuple[Tensor, Tensor]:
        gram, mean = moments.gram[text], moments.mean[text]
        if not self._packed:
            return (gram, mean) if len(moments.gram) == 1 else (gram.clone(), mean.clone())
        return gram.flatten().index_select(0, _places(len(gram), gram.device)[0]).float(), mean.float()

    def _joined(self, parts: Sequence[tuple[Tensor, Tensor]]) -> Moments:
        grams, means = zip(*parts, strict=True)
        if not self._packed:
            one = len(parts) == 1
            return Moments(grams[0][None], means[0][None]) if one else Moments(torch.stack(grams), torch.stack(means))
        mean = torch.stack(means)
        inputs = mean.shape[1]
        gram = torch.stack(grams).index_select(1, _places(inputs, mean.device)[1]).view(-1, inputs, inputs)
        return Moments(gram.double(), mean.double())


def packed_size(inputs: int) -> int:
    """Bytes of one site's packed moments."""
    return 4 * (inputs * (inputs + 1) // 2 + inputs)


@lru_cache(maxsize=4)
def _places(inputs: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where the triangle's numbers lie in an (I, I) matrix, and where the matrix's lie in the triangle."""
    down, across = torch.triu_indices(inputs, inputs, device=device)
    numbers = down * inputs + across
    places = torch.empty(inputs, inputs, dtype=torch.long, device=device)
    places[down, across] = places[across, down] = torch.arange(len(numbers), device=device)
    return numbers, places.flatten()

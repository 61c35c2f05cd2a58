"""Real removal at the end of a compressed run: what is smaller, what is faster, and that nothing else changed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plasticity_env.common.files import new_folder
from plasticity_env.model.compact.timing import time_kept
from plasticity_env.model.flops import flops
from plasticity_env.model.loading import LoadedModel
from plasticity_env.model.stock.stock_files import prepare_export, write_export


@dataclass(frozen=True)
class Removal:
    """A compacted model beside the dense one.

    Attributes:
        flops, dense_flops: Forward FLOPs per token.
        parameters, dense_parameters: Number of parameters, after and before.
        time_kept: Forward seconds over the dense model's, median of rounds side by side.
        logit_difference: Largest absolute difference from the masked model's logits.
        batch, length: Batch and length of the forward that was timed.
    """

    flops: float
    dense_flops: float
    parameters: int
    dense_parameters: int
    time_kept: float
    logit_difference: float
    batch: int
    length: int

    def to_json(self) -> dict[str, Any]:
        """All figures, and the shares."""
        shares = {
            "flops_kept": self.flops / self.dense_flops,
            "parameters_kept": self.parameters / self.dense_parameters,
        }
        return {**asdict(self), **shares}


@torch.no_grad()
def remove(loaded: LoadedModel, ids: Tensor, folder: Path | None = None) -> Removal:
    """Remove what is pruned, measure the result, and write it.

    Args:
        loaded: The masked model, left as it is, and its tokenizer.
        ids: (B, T) tokens of the forward that is timed and compared.
        folder: A new folder for the compacted model; None writes nothing.
    """
    model, ids = loaded.model, ids.to(loaded.model.device)
    export = prepare_export(model, "compact")
    compacted = export.model.to(ids.device)
    own = model(input_ids=ids, use_cache=False).logits
    difference = float((compacted(input_ids=ids, use_cache=False).logits - own).abs().max())
    with model.open_gates():
        dense = flops(model, ids.shape[1])
    found = Removal(
        flops=flops(compacted, ids.shape[1]),
        dense_flops=dense,
        parameters=export.parameters,
        dense_parameters=export.dense_parameters,
        time_kept=time_kept(model, ids),
        logit_difference=difference,
        batch=len(ids),
        length=ids.shape[1],
    )
    if folder is not None:
        with new_folder(folder, replace=folder.exists()) as place:
            write_export(export, place, loaded.tokenizer)
    return found

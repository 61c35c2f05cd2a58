"""Training beside pruned units: their weights and optimizer moments stay bit-identical, new units start afresh."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from plasticity_env.model.layouts import HeadSlice


@contextmanager
def frozen_pieces(pieces: list[HeadSlice], optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Wrap ``optimizer.step()``: these pieces of parameters and their moments come out bit-identical."""
    kept = [(piece, piece.data.clone(), _moments(piece, optimizer)) for piece in pieces]
    yield
    for piece, data, moments in kept:
        piece.data.copy_(data)
        for name, value in optimizer.state.get(piece.parameter, {}).items():
            if isinstance(value, Tensor) and value.shape == piece.parameter.shape:
                piece.narrow(value).copy_(moments[name]) if name in moments else piece.narrow(value).zero_()


def zero_moments(pieces: list[HeadSlice], optimizer: torch.optim.Optimizer) -> None:
    """Zero the optimizer's moments of these pieces of parameters."""
    for piece in pieces:
        for value in optimizer.state.get(piece.parameter, {}).values():
            if isinstance(value, Tensor) and value.shape == piece.parameter.shape:
                piece.narrow(value).zero_()


def _moments(piece: HeadSlice, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        name: piece.narrow(value).clone()
        for name, value in optimizer.state.get(piece.parameter, {}).items()
        if isinstance(value, Tensor) and value.shape == piece.parameter.shape
    }

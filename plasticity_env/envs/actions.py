"""Actions and masks as arrays, whatever library they come from."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from plasticity_env.common.errors import InputError
from plasticity_env.common.values import brief


def as_array(action: Any) -> np.ndarray:
    """An action as an array of numpy; its shape and type are judged by who reads it.

    Raises:
        InputError: Nothing that an array can be made of.
    """
    if isinstance(action, torch.Tensor):
        action = action.detach().cpu().numpy()
    try:
        return np.asarray(action)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"an action must be numbers in an array, got {brief(action)}") from error


def whole_numbers(action: Any, shape: tuple[int, ...], high: int, names: str = "") -> np.ndarray:
    """An action of whole numbers from 0 to ``high``, as int64.

    Args:
        action: Action as the agent gives it.
        shape: Shape that it must have.
        high: The largest that is allowed.
        names: What the numbers stand for, for the error.

    Raises:
        InputError: Another shape or type, or numbers out of range.
    """
    found = as_array(action)
    if shape == () and found.size == 1:
        found = found.reshape(())  # as SB3, TorchRL and tianshou hand over a single number
    if (
        found.shape != shape
        or found.dtype.kind not in "iu"
        or (found.size and not 0 <= found.min() <= found.max() <= high)
    ):
        kind = f"be whole numbers of shape {shape}" if shape else "be a whole number"
        kind = f"hold {shape[0]} whole numbers" if len(shape) == 1 else kind
        got = f"{found.dtype} of shape {found.shape}"
        if found.size == 1:
            got = brief(action)
        elif found.shape == shape and found.dtype.kind in "iu":
            got = f"numbers from {found.min()} to {found.max()}"
        raise InputError(f"an action must {kind} from 0 to {high}{f' ({names})' if names else ''}, got {got}")
    return found.astype(np.int64)


def read_mask(mask: Any, shape: tuple[int, ...]) -> torch.Tensor:
    """A mask as a boolean tensor.

    Raises:
        InputError: Another shape, or values that are not True and False (or 1 and 0).
    """
    found = as_array(mask)
    if found.shape != shape or found.dtype.kind not in "biuf" or not np.isin(found, (0, 1)).all():
        raise InputError(f"a mask must be True and False in shape {shape}, got {found.dtype} of shape {found.shape}")
    return torch.from_numpy(found.astype(bool))

"""Minari data sets on this machine: where they lie, what is there already, and how one is opened."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from plasticity_env.agents.training.agent import ENVIRONMENTS
from plasticity_env.common.errors import InputError, first_line
from plasticity_env.common.packages import require

PLACE = "MINARI_DATASETS_PATH"  # of the environment, as Minari reads it


@contextmanager
def stored_in(root: Path | None) -> Iterator[None]:
    """Let Minari look in a folder; where it looks anyway when None.

    Raises:
        InputError: Minari is not installed.
    """
    require("minari", "offline")
    before = os.environ.get(PLACE)
    try:
        if root is not None or before:
            os.environ[PLACE] = os.path.abspath(root or before or "")  # Minari writes elsewhere where it is relative
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* is set to None", UserWarning)
            yield
    finally:
        if before is None:
            os.environ.pop(PLACE, None)
        else:
            os.environ[PLACE] = before


def check_new(dataset_id: str) -> Path:
    """The folder of a data set that is to be written; a name that Minari does not take, or that is taken, is refused.

    Raises:
        InputError: The name cannot be used.
    """
    from minari.dataset.minari_dataset import parse_dataset_id
    from minari.storage.datasets_root_dir import get_dataset_path

    try:
        parse_dataset_id(dataset_id)
    except (ValueError, TypeError) as error:
        raise InputError(f"data set {dataset_id!r} must be named like plasticity/heads/mine-v0") from error
    if (place := get_dataset_path(dataset_id)).exists():
        raise InputError(f"data set {dataset_id!r} exists at {str(place)!r}: record under another name or version")
    return Path(place)


def open_dataset(dataset_id: str) -> tuple[Any, str]:
    """A data set of this package's environments.

    Args:
        dataset_id: Name of the data set, as `plasticity record` gave it.

    Returns:
        The data set, and the kind of its environment, of `ENVIRONMENTS`.

    Raises:
        InputError: No such data set, or one of another environment or version.
    """
    import minari

    try:
        dataset = minari.load_dataset(dataset_id)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"no data set {dataset_id!r} ({first_line(error)}): record one with plasticity record, or name its folder (--root)"
        ) from error
    name = getattr(dataset.spec.env_spec, "id", None)
    kinds = {env_id: kind for kind, env_id in ENVIRONMENTS.items()}
    if name not in kinds:
        raise InputError(
            f"data set {dataset_id!r} was recorded in {name}, whose columns this version does not read: known are "
            f"{', '.join(kinds)}; record it again"
        )
    return dataset, kinds[name]

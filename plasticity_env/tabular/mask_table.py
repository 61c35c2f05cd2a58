"""Every mask of one small model, measured: for searches that are compared without running the model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plasticity_env.common.errors import InputError
from plasticity_env.common.files import ZOO_FOLDER
from plasticity_env.common.shipped_folders import folder_or_shipped
from plasticity_env.common.values import brief, check_number
from plasticity_env.tabular.table_files import open_folder, read_part

KIND = "masks"
SHIPPED = ZOO_FOLDER / "masks"
CRITERIA = ("reward_loss", "calibration_loss")


@dataclass(frozen=True)
class MaskRow:
    """What the table says of one mask, test text apart.

    Attributes:
        mask: A string of 0 and 1 for each layer, with "/" between.
        heads: Number of active heads.
        flops: Forward FLOPs per token.
        flops_kept: Share of the dense model's.
        calibration_loss: Nats per token on the blocks that its repair was fitted on.
        reward_loss: Nats per token on the blocks that searches may read.
    """

    mask: str
    heads: int
    flops: float
    flops_kept: float
    calibration_loss: float
    reward_loss: float


class MaskTable:
    """A complete table of masks.

    Args:
        folder: Folder that `plasticity tabular masks` wrote.

    Attributes:
        description: What it was measured with.
        final_calls: How many test losses were looked at.

    Raises:
        InputError: No such table there.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder, self.description = open_folder(folder, KIND, ("masks", "masks_test"))
        rows = read_part(self._folder / "masks.parquet")
        self.masks: list[str] = rows["mask"].to_pylist()
        self._columns = {name: rows[name].to_numpy() for name in rows.column_names if name != "mask"}
        self._places = {mask: place for place, mask in enumerate(self.masks)}
        self._test: np.ndarray | None = None
        self.final_calls = 0

    def __len__(self) -> int:
        return len(self.masks)

    def query(self, mask: Any) -> MaskRow:
        """What a mask costs, and its losses on calibration and reward text.

        Args:
            mask: A string as "1111/1101/1111/1111", or an (L, H) array of what stays.

        Raises:
            InputError: The table has no such mask.
        """
        place = self._place(mask)
        values = {name: column[place].item() for name, column in self._columns.items()}
        return MaskRow(self.masks[place], **values)

    def best(self, heads: int | None = None, flops_kept: float | None = None, by: str = "reward_loss") -> MaskRow:
        """The mask of least loss on calibration or reward text.

        Args:
            heads: Most active heads; None for any number.
            flops_kept: Largest share of the dense model's FLOPs; None for any.
            by: "reward_loss" or "calibration_loss".

        Raises:
            InputError: Another criterion, or limits that no mask keeps.
        """
        losses = self._criterion(by)
        allowed = self._allowed(heads, flops_kept)
        return self.query(self.masks[int(allowed[losses[allowed].argmin()])])

    def regret_curve(
        self, masks: Iterable[Any], heads: int | None = None, flops_kept: float | None = None, by: str = "reward_loss"
    ) -> np.ndarray:
        """How far a search was from the best mask after each mask that it looked at.

        Args:
            masks: Masks in the order in which they were looked at. Those beyond the limits find nothing, and count as
                looked at.
            heads, flops_kept, by: The same as for `best`.

        Returns:
            (n,) nats per token, infinite until a mask within the limits was seen.

        Raises:
            InputError: If there is no mask, or `best` or `query` refuse the arguments.
        """
        losses, allowed = self._criterion(by), self._allowed(heads, flops_kept)
        places = [self._place(mask) for mask in masks]
        if not places:
            raise InputError("a regret curve needs the masks that a search looked at, and got none")
        inside = np.isin(places, allowed)
        seen = np.where(inside, losses[places].astype(np.float64), np.inf)
        return np.minimum.accumulate(seen) - float(losses[allowed].min())

    def final(self, mask: Any) -> float:
        """The loss of a mask on test text, nats per token. Each call counts: look once, at what you report.

        Raises:
            InputError: The table has no such mask.
        """
        place = self._place(mask)
        if self._test is None:
            rows = read_part(self._folder / "masks_test.parquet")
            if rows["mask"].to_pylist() != self.masks:
                raise InputError(f"the table at {str(self._folder)!r} has test losses of other masks: make it again")
            self._test = rows["test_loss"].to_numpy()
        self.final_calls += 1
        return float(self._test[place])

    def final_regret(self, mask: Any, heads: int | None = None, flops_kept: float | None = None) -> float:
        """How far a mask's test loss is from the least one within the limits; it counts as a look at test text.

        Raises:
            InputError: If `best` or `query` refuse the arguments.
        """
        allowed = self._allowed(heads, flops_kept)
        loss = self.final(mask)
        assert self._test is not None
        return loss - float(self._test[allowed].min())

    def _place(self, mask: Any) -> int:
        name = mask if isinstance(mask, str) else mask_name(mask)
        if name not in self._places:
            raise InputError(
                f"the table of {self.description['model']} has no mask {brief(name)}: write 0 or 1 for each head, as "
                f"{self.masks[-1]!r}"
            )
        return self._places[name]

    def _criterion(self, by: str) -> np.ndarray:
        if by not in CRITERIA:
            raise InputError(
                f"masks are chosen by {' or '.join(CRITERIA)}, not by {by!r}: test losses only come from final()"
            )
        return self._columns[by]

    def _allowed(self, heads: int | None, flops_kept: float | None) -> np.ndarray:
        inside = np.ones(len(self), dtype=bool)
        if heads is not None:
            inside &= self._columns["heads"] <= check_number("heads", heads, 0)
        if flops_kept is not None:
            inside &= self._columns["flops_kept"] <= check_number("flops_kept", flops_kept, 0)
        if not inside.any():
            least = float(self._columns["flops_kept"].min())
            raise InputError(
                f"no mask has at most {heads} heads and {flops_kept} of the FLOPs: the least is {least:.3f}"
            )
        return np.flatnonzero(inside)


def open_masks(folder: str | Path) -> MaskTable:
    """Open a complete table of masks.

    Args:
        folder: Folder that `plasticity tabular masks` wrote (``table`` in its run's folder), or the name of an embedded model
            whose table comes with the package: ``"bard-gpt2-4x4"``.

    Raises:
        InputError: No such table there.
    """
    return MaskTable(folder_or_shipped(folder, "a table of masks", {path.name: path for path in SHIPPED.iterdir()}))


def mask_name(mask: Any) -> str:
    """A string of 0 and 1 for each layer of an (L, H) mask, with "/" between.

    Raises:
        InputError: If it is no table of two dimensions of zeros and ones.
    """
    values = np.asarray(mask)
    if values.ndim != 2 or not np.isin(values, (0, 1)).all():
        raise InputError(f"a mask is a string, or 0 and 1 in (layers, heads); got {brief(mask)}")
    return "/".join("".join(str(int(value)) for value in layer) for layer in values)

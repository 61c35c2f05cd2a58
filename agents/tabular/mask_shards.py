"""Measuring every mask, a shard at a time: what is finished stays, and a second run goes on with the shards that are missing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from plasticity_env.agents.leaderboard.playing import Table
from plasticity_env.agents.tabular.mask_tree import MaskTree
from plasticity_env.common.cli import machine
from plasticity_env.common.errors import InputError, first_line
from plasticity_env.common.files import write_text
from plasticity_env.model.guards import raw_state
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.tabular.mask_table import mask_name
from plasticity_env.tabular.table_files import read_part, write_part

SHARDS, ARGUMENTS, MACHINES = "shards", "masks.json", "machines"
SPLITS = ("calibration", "reward", "test")
ALIKE = 1e-4  # nats: a mask's loss found in the tree, and found with the mask on the model


class MaskShards:
    """The shards of one table in a run's folder: one for each option of the first layer that is free.

    Args:
        folder: The run's folder.
        table: The model and its texts.
        seed: Draws the calibration and reward blocks.
        whole_layers: So many first layers keep all their heads in every mask.

    Attributes:
        about: What the shards were measured with; JSON.
        machines: Where they were measured, each machine with its library versions once.

    Raises:
        InputError: The folder holds shards that were measured with something else, or the model cannot have such a table.
    """

    def __init__(self, folder: Path, table: Table, seed: int, whole_layers: int = 0) -> None:
        self.folder, self._table, self._seed = folder, table, seed
        settings, board, drawn = table.rules.settings, table.board, table.blocks(seed)
        model = table.workbench.model
        model.make_dense()  # another table's player may have left its mask and repair there
        self.about: dict[str, Any] = {
            "model": board.model,
            "text": board.text,
            "text_split": board.text_split,
            "block_length": board.max_length,
            "repair": board.repair,
            "seed": seed,
            "calibration_blocks": drawn["calibration"],
            "reward_blocks": drawn["reward"],
            "test_blocks": board.test_blocks,
            "weights": _digest(model),
        }
        if whole_layers:
            self.about["whole_layers"] = whole_layers
        text = table.workbench.text
        self._ids = [text.blocks("calibration")[drawn["calibration"]], text.blocks("reward")[drawn["reward"]]]
        self._ids.append(table.tested)
        self._tree = MaskTree(model, settings.repair, self._ids[0], settings.batch_size, whole_layers)
        self.total = len(self._tree.options)
        self.machines = self._check_folder()

    def missing(self) -> list[int]:
        """Numbers of the shards that are not there yet."""
        return [number for number in range(self.total) if not self._path(number).is_file()]

    def measure(self, limit: int | None = None) -> Iterator[int]:
        """Measure the missing shards, and give the number of each as it is written.

        Args:
            limit: How many at most; None for all.

        Raises:
            InputError: A mask's loss in the tree is not its loss with the mask on the model.
        """
        missing = self.missing()[:limit]
        if missing:
            self.machines = list(dict.fromkeys([*self.machines, machine()]))
            write_text(self.folder / ARGUMENTS, json.dumps({**self.about, MACHINES: self.machines}, indent=1) + "\n")
        for count, number in enumerate(missing):
            masks = self._tree.masks(number)
            losses = {name: self._tree.losses(number, ids) for name, ids in zip(SPLITS, self._ids, strict=True)}
            if not count:
                middle = len(masks) // 2
                self._check(masks[middle], float(losses["reward"][middle, 0]))
            means = {f"{name}_loss": pa.array(of.mean(1).numpy(), pa.float32()) for name, of in losses.items()}
            names = pa.array([mask_name(mask.numpy()) for mask in masks])
            write_part(self._path(number), pa.table({"mask": names, **means}))
            yield number

    def rows(self) -> pa.Table:
        """All masks, with what they cost.

        Raises:
            InputError: Shards are missing.
        """
        if missing := self.missing():
            raise InputError(f"{len(missing)} of {self.total} shards are missing in {str(self.folder)!r}: run it again")
        found = pa.concat_tables([read_part(self._path(number)) for number in range(self.total)])
        active = torch.cat([self._tree.masks(number) for number in range(self.total)])
        flops = self._table.workbench.flop_table.totals(active).numpy()
        dense = self._table.workbench.flop_table.total(torch.ones(active.shape[1:], dtype=torch.bool))
        heads = active.sum((1, 2)).numpy().astype(np.uint8)
        for place, (name, values) in enumerate((("heads", heads), ("flops", flops), ("flops_kept", flops / dense)), 1):
            found = found.add_column(place, name, pa.array(values if name == "heads" else values.astype(np.float32)))
        return found

    def _path(self, number: int) -> Path:
        return self.folder / SHARDS / f"{number:03d}.parquet"

    def _check(self, mask: torch.Tensor, loss: float) -> None:
        (plain,) = self._table.losses_of(mask, self._seed, self._ids[1][:1])
        self._table.workbench.model.make_dense()
        if not abs(plain - loss) < ALIKE:
            raise InputError(
                f"the loss of a mask is {plain} with the mask on the model and {loss} where layers are shared: a complete table "
                "cannot be made of this architecture"
            )

    def _check_folder(self) -> list[str]:
        """Where its shards were measured so far."""
        path = self.folder / ARGUMENTS
        if not path.is_file():
            if (self.folder / SHARDS).is_dir():
                raise InputError(f"{str(self.folder)!r} holds shards but no {ARGUMENTS}: name another folder")
            return []
        try:
            before = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise InputError(f"{str(path)!r} is damaged ({first_line(error)}): name another folder") from error
        machines = list(before.pop(MACHINES, []))
        for name in {**self.about, **before}:
            if before.get(name) != self.about.get(name):
                raise InputError(
                    f"the shards in {str(self.folder)!r} were measured with another {name}: give the same arguments, or name "
                    "another folder"
                )
        return machines


def _digest(model: PlasticModel) -> str:
    """Twelve hexadecimal digits of a model's weights."""
    found = hashlib.sha256()
    for name, value in sorted(raw_state(model.model).items()):
        found.update(name.encode())
        found.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return found.hexdigest()[:12]

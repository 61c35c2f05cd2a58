"""The leaderboard's cells: what every player left of every model, for choosing among players without playing them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from plasticity_env.common.errors import InputError, unknown
from plasticity_env.tabular.table_files import open_folder, read_part

KIND = "cells"
BOARD = (  # columns that say on what board a cell was played, beside model and text
    "max_length",
    "calibration_blocks",
    "reward_blocks",
    "test_blocks",
    "repair",
    "units",
    "mlp_blocks",
    "mode",
    "flop_price",
    "neuron_order",
    "text_split",
    "moment_blocks",
    "labels",
)


@dataclass(frozen=True)
class CellRow:
    """What the table says of one cell, test text apart.

    Attributes:
        cell: Its number in the table.
        model, text: Model and text of its board.
        board: The other rules of its board, by name.
        player, fingerprint: Who played, and in what version where the name does not tell.
        share, seed: Share of the units that had to go, and the draw of calibration text.
        flops_kept: Share of the dense model's forward FLOPs.
        mask: What is left, a string of 0 and 1 for each layer with "/" between.
        rounds: The masks after every round.
        evaluations, forward_tokens, backward_tokens, seconds: What the player paid.
        machine: Machine that it was played on.
        validated: The episode was replayed by another process.
        calibration_loss, reward_loss: Nats per token of what is left; None where the leaderboard's file does not hold them.
    """

    cell: int
    model: str
    text: str
    board: Mapping[str, Any]
    player: str
    fingerprint: str
    share: float
    seed: int
    flops_kept: float
    mask: str
    rounds: tuple[str, ...]
    evaluations: int
    forward_tokens: int
    backward_tokens: int
    seconds: float
    machine: str
    validated: bool
    calibration_loss: float | None = None
    reward_loss: float | None = None


@dataclass(frozen=True)
class Final:
    """What a cell's test text says.

    Attributes:
        loss: Mean loss of what is left, nats per token.
        rise: Its rise over the dense model's.
        losses, dense_losses: (blocks,) of each test block.
    """

    loss: float
    rise: float
    losses: np.ndarray
    dense_losses: np.ndarray


class CellTable:
    """Cells by model, text, player, share and seed; a cell that is not there is an error.

    Args:
        folder: Folder that `plasticity tabular build` wrote.

    Attributes:
        description: Description of where its rows come from.
        looks: How often test losses were looked at, by "MODEL on TEXT".

    Raises:
        InputError: No such table there.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder, self.description = open_folder(folder, KIND, ("cells", "cells_test"))
        own = {entry.name for entry in fields(CellRow)} - {"board"}
        self._rows = []
        for row in read_part(self._folder / "cells.parquet").to_pylist():
            values: dict[str, Any] = {name: value for name, value in row.items() if name in own}
            if "rounds" in values:
                values["rounds"] = tuple(values["rounds"])
            self._rows.append(CellRow(board={name: row[name] for name in BOARD}, **values))
        self._test: list[dict[str, Any]] | None = None
        self.looks: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def final_calls(self) -> int:
        """How many test losses were looked at, of all models."""
        return self.looks.total()

    def boards(self) -> list[tuple[str, str]]:
        """Models and texts that the table has cells of."""
        return sorted({(row.model, row.text) for row in self._rows})

    def players(self, model: str, text: str, **board: Any) -> list[str]:
        """Players with cells of a model on a text."""
        return sorted({row.player for row in self._of(model, text, board)})

    def query(self, model: str, text: str, player: str, share: float, seed: int, **board: Any) -> CellRow:
        """Look one cell up.

        Args:
            model, text, player, share, seed: Names and numbers as on the leaderboard, for example ``fisher@4``.
            **board: Rules of its board where several would do, such as ``repair="least_squares"`` or ``test_blocks=256``; and
                ``fingerprint`` where a player has several versions.

        Raises:
            InputError: No such cell, or several.
        """
        rows = [row for row in self._of(model, text, board) if row.player == player]
        if not rows:
            raise unknown(f"player of {model} on {text}", player, self.players(model, text, **board))
        exact = [row for row in rows if row.share == share and row.seed == seed]
        if not exact:
            there = ", ".join(f"{at:g}/{of}" for at, of in sorted({(row.share, row.seed) for row in rows}))
            raise InputError(
                f"no cell of {player} at share {share} with seed {seed} on {model}: there are share/seed {there}; "
                "the table is never filled in between"
            )
        return _single(exact)

    def final(self, cell: CellRow) -> Final:
        """A cell's test losses. Each call counts, by the model and text whose test text is looked at.

        Args:
            cell: Cell that `query` gave.
        """
        self.looks[f"{cell.model} on {cell.text}"] += 1
        if self._test is None:
            self._test = read_part(self._folder / "cells_test.parquet").to_pylist()
            if [row["cell"] for row in self._test] != [row.cell for row in self._rows]:
                raise InputError(f"the table at {str(self._folder)!r} has test losses of other cells: build it again")
        row = self._test[cell.cell]
        losses, dense = (np.array(row[name], dtype=np.float64) for name in ("test_losses", "dense_losses"))
        return Final(float(losses.mean()), float((losses - dense).mean()), losses, dense)

    def rises(
        self, model: str, text: str, share: float, players: Iterable[str] | None = None, **board: Any
    ) -> dict[str, float]:
        """Mean rise of the test loss of each player over the seeds that all of them played; every cell counts as a look.

        Args:
            model, text, share: Place on the boards.
            players: Whom to compare; None for all that played there.
            **board: The same as for `query`.

        Raises:
            InputError: No cells, several boards, or no seed that all of them played.
        """
        rows = [row for row in self._of(model, text, board) if row.share == share]
        wanted = sorted({row.player for row in rows}) if players is None else list(players)
        seeds = {name: {row.seed for row in rows if row.player == name} for name in wanted}
        absent = [name for name in wanted if not seeds[name]]
        if absent or not wanted:
            who = absent[0] if absent else "any player"
            raise InputError(
                f"no cells of {who} at share {share} on {model}: shares there are {self._shares(model, text)}"
            )
        common = set.intersection(*seeds.values())
        if not common:
            raise InputError(f"no seed was played by all of {', '.join(wanted)} at share {share} on {model}")
        found = {}
        for name in wanted:
            cells = [
                _single([row for row in rows if row.player == name and row.seed == seed]) for seed in sorted(common)
            ]
            found[name] = float(np.mean([self.final(cell).rise for cell in cells]))
        return found

    def best(
        self, model: str, text: str, share: float, players: Iterable[str] | None = None, **board: Any
    ) -> tuple[str, float]:
        """The player of the least mean rise of the test loss, and that rise: what a choice is held against.

        It reads test text (see `rises`): choose with it on some models, and report on others.
        """
        rises = self.rises(model, text, share, players, **board)
        name = min(rises, key=rises.__getitem__)
        return name, rises[name]

    def regret_curve(self, model: str, text: str, share: float, order: Sequence[str], **board: Any) -> dict[str, float]:
        """What trying players in an order leaves to gain: the best rise so far above that of the best player of all.

        Args:
            model, text, share: Place on the boards.
            order: Players in the order in which they are tried.
            **board: The same as for `query`.

        Returns:
            Nats per token after each player, in their order. Only the seeds that all players there share count.
        """
        rises = self.rises(model, text, share, **board)
        missing = [name for name in order if name not in rises]
        if missing or not order:
            raise unknown(f"player of {model} on {text}", missing[0] if missing else "", rises)
        sofar = np.minimum.accumulate([rises[name] for name in order]) - min(rises.values())
        return dict(zip(order, sofar.tolist(), strict=True))

    def _of(self, model: str, text: str, board: Mapping[str, Any]) -> list[CellRow]:
        for name in board:
            if name not in (*BOARD, "fingerprint"):
                raise unknown("rule of a board", name, (*BOARD, "fingerprint"))
        rows = [row for row in self._rows if row.model == model]
        if not rows:
            raise unknown("model of the table", model, {row.model for row in self._rows})
        rows = [row for row in rows if row.text == text]
        if not rows:
            raise unknown(f"text of {model}", text, {own for name, own in self.boards() if name == model})
        kept = [
            row
            for row in rows
            if all(
                (row.fingerprint if name == "fingerprint" else row.board[name]) == value
                for name, value in board.items()
            )
        ]
        if not kept:
            asked = ", ".join(f"{name}={value!r}" for name, value in board.items())
            raise InputError(f"no cells of {model} on {text} with {asked}: it was played with {_differences(rows)}")
        return kept

    def _shares(self, model: str, text: str) -> str:
        return ", ".join(f"{share:g}" for share in sorted({row.share for row in self._of(model, text, {})}))


def _single(rows: Sequence[CellRow]) -> CellRow:
    """The one row among these; they are of one player, share and seed."""
    if len(rows) > 1:
        raise InputError(
            f"{len(rows)} cells of {rows[0].player} on {rows[0].model} differ only in {_differences(rows)}: name one"
        )
    return rows[0]


def _differences(rows: Sequence[CellRow]) -> str:
    """The rules that differ among rows, with their values."""
    values: dict[str, set[Any]] = {name: {row.board[name] for row in rows} for name in BOARD}
    values["fingerprint"] = {row.fingerprint for row in rows}
    differ = {name: found for name, found in values.items() if len(found) > 1}
    shown = differ or {"repair": values["repair"]}
    return ", ".join(f"{name} {' or '.join(map(repr, sorted(found, key=str)))}" for name, found in shown.items())


def open_table(folder: str | Path) -> CellTable:
    """Open a table of the leaderboard's cells.

    Args:
        folder: Folder that `plasticity tabular build` wrote.

    Raises:
        InputError: No such table there.
    """
    return CellTable(folder)

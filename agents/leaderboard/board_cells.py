"""What a leaderboard is made of: boards, and the cells that players leave on them."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plasticity_env.agents.leaderboard.players import current_text
from plasticity_env.common.errors import InputError
from plasticity_env.common.jsonl_table import CellFile

Mask = tuple[str, ...]  # a string of 0 and 1 for each layer
DETAILS = {  # fields of a board that its title leaves out
    "max_length": "blocks of {} tokens",
    "calibration_blocks": "{} calibration blocks",
    "reward_blocks": "{} reward blocks",
    "test_blocks": "{} test blocks",
    "mlp_blocks": "{} MLP blocks a layer",
    "flop_price": "FLOP price {:g}",
    "text_split": "text split by {}",
    "moment_blocks": "{} moment blocks",
    "labels": "slopes of {} labels",
}


@dataclass(frozen=True)
class Board:
    """One model on one text under one set of rules; all that play on it can be compared.

    Attributes:
        model, text: Their short names.
        max_length: Tokens a block.
        calibration_blocks: Drawn by the seed; they score and repair.
        reward_blocks: Drawn by the seed; they pay (searches read them).
        test_blocks: Spread evenly over the test split; they decide nothing.
        repair: Repair of every mask.
        units: "heads" or "heads+mlp".
        mlp_blocks: Blocks of neurons a layer, 0 with "heads".
        mode: "adaptive" or "compressed".
        flop_price: What controllers observe as price.
        neuron_order: Order of the neurons of each layer, before they are cut into blocks; "stored" with "heads".
        labels: Next tokens that slopes are taken of, the text's own ("data") or "sampled" ones.
        moment_blocks: Drawn by the seed beside the calibration blocks; they repair. 0: those do.
        text_split: How the text was split; "leading" for text that comes in splits, and for cells that do not say.
    """

    model: str
    text: str
    max_length: int = 128
    calibration_blocks: int = 16
    reward_blocks: int = 16
    test_blocks: int = 64
    repair: str = "least_squares"
    units: str = "heads"
    mlp_blocks: int = 0
    mode: str = "adaptive"
    flop_price: float = 4.0
    neuron_order: str = "stored"
    text_split: str = "leading"
    moment_blocks: int = 0
    labels: str = "data"

    @property
    def read_blocks(self) -> int:
        """Blocks of calibration text that a draw reads in all."""
        return self.calibration_blocks + self.moment_blocks

    @property
    def what(self) -> str:
        """The units, and the order of the neurons where it is not the stored one."""
        return self.units + ("" if self.neuron_order == "stored" else f" in {self.neuron_order} order")

    @property
    def title(self) -> str:
        """The heading: model, text, and what differs from the usual."""
        units = "" if self.units == "heads" else f", {self.what}"
        mode = "" if self.mode == "adaptive" else f", {self.mode}"
        return f"{self.model} on {self.text}, {self.repair} repair{units}{mode}"


@dataclass(frozen=True)
class Cell:
    """What one player left of one model at one share, with one draw of calibration text.

    Attributes:
        board: Board that it was played on.
        player: Canonical name, see `players.Player`.
        fingerprint: Fingerprint of the player's weights or code; empty for a rule that its name says all about.
        share: Share of the units that had to go.
        seed: Seed of calibration and reward blocks, and of the player's own randomness.
        test_losses, dense_losses: Loss of each test block, nats per token: of what is left, and of the dense model.
        flops_kept: Share of the dense model's forward FLOPs.
        kept: (L, U) final mask, 0 or 1.
        rounds: The masks after every round, a string a layer.
        evaluations: Forwards over a batch that the player would have paid alone (players share a memo); a measuring pass, with
            its backward, counts as three.
        forward_tokens, backward_tokens: Tokens that went through the model for these.
        seconds: Seconds of the episode as it was played, without the test text; what others had measured cost nothing.
        machine: Machine that it was played on.
        validated: The episode was replayed by another process than the one that played it.
    """

    board: Board
    player: str
    fingerprint: str
    share: float
    seed: int
    test_losses: tuple[float, ...]
    dense_losses: tuple[float, ...]
    flops_kept: float
    kept: tuple[tuple[int, ...], ...]
    rounds: tuple[Mask, ...]
    evaluations: int
    forward_tokens: int
    backward_tokens: int
    seconds: float
    machine: str = ""
    validated: bool = False

    @property
    def key(self) -> tuple[object, ...]:
        """What tells cells apart."""
        return (self.board, self.player, self.fingerprint, self.share, self.seed)

    @property
    def deltas(self) -> np.ndarray:
        """(blocks,) rise of the loss over the dense model's, nats per token."""
        return np.array(self.test_losses) - np.array(self.dense_losses)


def titles(boards: Iterable[Board]) -> dict[Board, str]:
    """Headings that tell boards apart: their titles and, where several have the same one, what differs."""
    groups: dict[str, list[Board]] = {}
    for board in dict.fromkeys(boards):
        groups.setdefault(board.title, []).append(board)
    found = {}
    for title, own in groups.items():
        differ = [name for name in DETAILS if len({getattr(board, name) for board in own}) > 1]
        for board in own:
            found[board] = ", ".join([title, *(DETAILS[name].format(getattr(board, name)) for name in differ)])
    return found


def cell_file(path: Path) -> CellFile[Cell]:
    """The cells of a JSON lines file."""
    return CellFile(path, parse, "this leaderboard")


def played(path: Path, boards: Container[Board], players: Container[str], seeds: int, asked: str) -> list[Cell]:
    """Finished cells of some players on some boards, of the first so many draws.

    Args:
        asked: What was asked for, in words.

    Raises:
        InputError: The file holds no such cells.
    """
    found = [c for c in cell_file(path).read() if c.board in boards and c.player in players and c.seed < seeds]
    if not found:
        raise InputError(f"{str(path)!r} holds no cells of {asked}: play them first")
    return found


def row(cell: Cell) -> dict[str, Any]:
    """The line of a cell in the file."""
    return asdict(cell)


def parse(data: dict[str, Any]) -> Cell:
    """A cell of its line's mapping.

    Raises:
        KeyError, TypeError, ValueError: The mapping is not a cell's line.
    """
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
    values["board"], values["player"] = Board(**data["board"]), current_text(data["player"])
    values["kept"] = tuple(tuple(layer) for layer in data["kept"])
    values["rounds"] = tuple(tuple(mask) for mask in data["rounds"])
    cell = Cell(**values)
    if len(cell.test_losses) != len(cell.dense_losses) or len(cell.test_losses) != cell.board.test_blocks:
        raise ValueError("losses of other blocks than the board's")
    return cell

"""What each text costs under each structure of a bank: for routers that are compared without running the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plasticity_env.common.errors import InputError, unknown
from plasticity_env.common.values import check_number
from plasticity_env.tabular.cell_table import KIND
from plasticity_env.tabular.table_files import open_folder, read_part

PARTS = ("routes", "routes_test", "prefixes")


@dataclass(frozen=True)
class RouteRow:
    """What the table says of one train text under one structure.

    Attributes:
        table: Name of the route table.
        text: Number of the text.
        kind: Kind of the text.
        structure: Name of the structure.
        share: Share of the heads that it prunes.
        flops_kept: Forward FLOPs over the dense model's: prefix dense, the rest under the structure.
        static_flops_kept: The same with the whole text under the structure.
        loss: Nats per token after the prefix, which ran dense.
        static_loss: The same with the whole text under the structure; NaN where that was not measured.
        probe_loss: Nats per token of the prefix under the structure.
    """

    table: str
    text: int
    kind: str
    structure: str
    share: float
    flops_kept: float
    static_flops_kept: float
    loss: float
    static_loss: float
    probe_loss: float


class RouteLosses:
    """Losses of texts under structures; a pair that is not there is an error.

    Args:
        folder: Folder that `plasticity tabular build` wrote.

    Attributes:
        description: What its tables were measured with, by name.
        looks: How often test losses were looked at, by table.

    Raises:
        InputError: No such table there.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder, about = open_folder(folder, KIND, PARTS)
        self.description: dict[str, dict[str, Any]] = {each["table"]: each for each in about["routes"]}
        rows = read_part(self._folder / "routes.parquet").to_pylist()
        self._rows = {(row["table"], row["text"], row["structure"]): RouteRow(**row) for row in rows}
        self._test: dict[tuple[str, int, str], RouteRow] | None = None
        prefixes = read_part(self._folder / "prefixes.parquet").to_pylist()
        self._prefixes = {
            (row["table"], row["text"]): np.array([*row["features"], *row["distance"]], dtype=np.float32)
            for row in prefixes
        }
        self.looks: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def final_calls(self) -> int:
        """How many test losses were looked at, of all tables."""
        return self.looks.total()

    def tables(self) -> list[str]:
        """Names of the route tables."""
        return sorted(self.description)

    def structures(self, table: str) -> list[str]:
        """Names of a table's structures, the dense one first."""
        return list(self._about(table)["structures"])

    def texts(self, table: str, split: str = "train") -> list[int]:
        """Numbers of a table's texts: those of the train split, whose losses `query` gives, or those of the test split.

        Raises:
            InputError: No such table, or another split.
        """
        if split not in ("train", "test"):
            raise unknown("split", split, ("train", "test"))
        self._about(table)
        train = {text for of, text, _ in self._rows if of == table}
        every = {text for of, text in self._prefixes if of == table}
        return sorted(train if split == "train" else every - train)

    def prefix(self, table: str, text: int) -> np.ndarray:
        """(34 + k,) what the first tokens of a text of any split tell: features, and distances to k kinds of text.

        Raises:
            InputError: No such table or text.
        """
        self._about(table)
        if (table, text) not in self._prefixes:
            raise InputError(f"{table!r} has no text {text}: there are 0 to {self._about(table)['texts'] - 1}")
        return self._prefixes[table, text]

    def query(self, table: str, text: int, structure: str) -> RouteRow:
        """What a train text costs under a structure.

        Raises:
            InputError: No such table, text or structure, or a test text.
        """
        self._check(table, text, structure, "train")
        return self._rows[table, text, structure]

    def potential(self, row: RouteRow, price: float) -> float:
        """What `Route-v0` pays for a choice: the dense model's loss less the row's, less price times log FLOPs kept, in nats."""
        dense = self._rows[row.table, row.text, self.structures(row.table)[0]]
        return float(dense.loss - row.loss - check_number("price", price, 0) * np.log(row.flops_kept))

    def best(self, table: str, text: int, price: float) -> RouteRow:
        """The structure of the highest potential for a train text.

        Raises:
            InputError: No such table, a test text, or a price below 0.
        """
        rows = [self.query(table, text, structure) for structure in self.structures(table)]
        return max(rows, key=lambda row: self.potential(row, price))

    def regret(self, table: str, choices: Mapping[int, str], price: float) -> float:
        """How far choices for train texts lie from the best structure of each text, in nats of potential, on the mean.

        Args:
            table: Name of the route table.
            choices: Structure by text.
            price: Price of a nat of log FLOPs.

        Raises:
            InputError: No choice, or one that `query` refuses.
        """
        if not choices:
            raise InputError("a regret needs choices: the name of a structure for each text")
        found = [
            self.potential(self.best(table, text, price), price) - self.potential(self.query(table, text, name), price)
            for text, name in choices.items()
        ]
        return float(np.mean(found))

    def final(self, table: str, choices: Mapping[int, str]) -> tuple[float, float]:
        """What choices for test texts come to. Each text counts as a look: ask once, at what you report.

        Args:
            table: Name of the route table.
            choices: Structure by text.

        Returns:
            Mean rise of the loss over the dense model's, nats per token; and mean FLOPs kept.

        Raises:
            InputError: No choice, or a table, text or structure that is not there.
        """
        if not choices:
            raise InputError("final needs choices: the name of a structure for each test text")
        for text, structure in choices.items():
            self._check(table, text, structure, "test")
        if self._test is None:
            rows = read_part(self._folder / "routes_test.parquet").to_pylist()
            self._test = {(row["table"], row["text"], row["structure"]): RouteRow(**row) for row in rows}
        self.looks[table] += len(choices)
        dense = self.structures(table)[0]
        rows = [(self._test[table, text, name], self._test[table, text, dense]) for text, name in choices.items()]
        return float(np.mean([own.loss - of.loss for own, of in rows])), float(
            np.mean([own.flops_kept for own, _ in rows])
        )

    def _about(self, table: str) -> dict[str, Any]:
        if table not in self.description:
            raise unknown("route table", table, self.description)
        return self.description[table]

    def _check(self, table: str, text: int, structure: str, split: str) -> None:
        if structure not in self.structures(table):
            raise unknown(f"structure of {table}", structure, self.structures(table))
        self.prefix(table, text)
        is_train = (table, text, structure) in self._rows
        if is_train and split == "test":
            raise InputError(f"text {text} of {table!r} is a train text: ask query() for it")
        if not is_train and split == "train":
            raise InputError(f"text {text} of {table!r} is a test text: its losses only come from final()")


def open_routes(folder: str | Path) -> RouteLosses:
    """Open the route tables of a data set.

    Args:
        folder: Folder that `plasticity tabular build` wrote.

    Raises:
        InputError: No such tables there.
    """
    return RouteLosses(folder)

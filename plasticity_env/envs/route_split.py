"""Which texts of a route table agents learn from, and which they are tested on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from plasticity_env.common.errors import InputError, unknown

if TYPE_CHECKING:
    from plasticity_env.dynamic.route_table import RouteTable


def split_texts(table: RouteTable, texts: str, test_share: float = 0.25, held_out: str = "") -> np.ndarray:
    """Numbers of a table's texts, in ascending order.

    The last texts of every kind are test texts, so that neighbours, which may be of one document, lie on one side (but for the
    two at the cut). A kind with a single text has it in train.

    Args:
        table: Table of the texts.
        texts: "train", "test" or "all".
        test_share: Share of each kind's texts that are test texts, rounded; at least one of a kind's two or more.
        held_out: A kind that train leaves out; its test texts stay.

    Raises:
        InputError: No such kind, or no text is left.
    """
    if held_out and held_out not in table.kinds:
        raise unknown("kind of text", held_out, table.kinds)
    if texts == "all":
        return np.arange(len(table))
    found = []
    for number, name in enumerate(table.kinds):
        own = np.flatnonzero(np.asarray(table.kind) == number)
        tests = min(max(1, round(test_share * len(own))), len(own) - 1) if len(own) else 0
        train, test = own[: len(own) - tests], own[len(own) - tests :]
        if texts == "test":
            found.append(test)
        elif name != held_out:
            found.append(train)
    chosen = np.sort(np.concatenate(found)) if found else np.zeros(0, dtype=np.int64)
    if not len(chosen):
        raise InputError(f"the route table has no {texts} text ({len(table)} in all): measure more texts")
    return chosen

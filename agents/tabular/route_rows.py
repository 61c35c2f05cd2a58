"""Route tables as rows: losses of each text under each structure, train and test texts apart, and what prefixes tell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from plasticity_env.common.errors import InputError
from plasticity_env.dynamic.route_table import RouteTable
from plasticity_env.envs.route_settings import RouteSettings
from plasticity_env.envs.route_split import split_texts

_FLOATS = ("flops_kept", "static_flops_kept", "loss", "static_loss", "probe_loss")


def route_parts(folders: Sequence[Path]) -> tuple[dict[str, pa.Table], list[dict[str, Any]]]:
    """The Parquet files of some route tables.

    Args:
        folders: Folders of route tables; the name of each names its table.

    Returns:
        ``routes``, ``routes_test`` and ``prefixes``; and what each table is, JSON-able.

    Raises:
        InputError: No table in a folder, or two of one name.
    """
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):
        raise InputError(f"two route tables are named alike ({', '.join(names)}): rename a folder")
    share = RouteSettings.test_share
    parts: dict[str, list[pa.Table]] = {"routes": [], "routes_test": [], "prefixes": []}
    about = []
    for name, folder in zip(names, folders, strict=True):
        table = RouteTable.load(folder)
        for part, texts in (("routes", "train"), ("routes_test", "test")):
            parts[part].append(_losses(name, table, split_texts(table, texts, share, "")))
        parts["prefixes"].append(_prefixes(name, table))
        about.append(
            {
                "table": name,
                "model": table.model,
                "texts": len(table),
                "kinds": list(table.kinds),
                "structures": list(table.structures),
                "tokens": table.tokens,
                "prefix_tokens": table.prefix_tokens,
                "test_share": share,
            }
        )
    return {name: pa.concat_tables(found) for name, found in parts.items()}, about


def _losses(name: str, table: RouteTable, texts: np.ndarray) -> pa.Table:
    """A row a text and structure."""
    count = len(table.structures)
    text, structure = np.repeat(texts, count), np.tile(np.arange(count), len(texts))
    every = np.arange(count)
    columns: dict[str, Any] = {
        "table": [name] * len(text),
        "text": text.astype(np.int32),
        "kind": [table.kinds[kind] for kind in np.asarray(table.kind)[text]],
        "structure": [table.structures[number] for number in structure],
        "share": np.array(table.shares, dtype=np.float32)[structure],
        "flops_kept": table.flops_kept(every)[structure],
        "static_flops_kept": table.static_flops_kept(every)[structure],
        "loss": np.asarray(table.loss)[text, structure],
        "static_loss": np.asarray(table.static_loss)[text, structure],
        "probe_loss": np.asarray(table.probe)[text, structure],
    }
    columns |= {column: np.asarray(columns[column], dtype=np.float32) for column in _FLOATS}
    return pa.table(columns)


def _prefixes(name: str, table: RouteTable) -> pa.Table:
    """A row a text: what an agent may see of any, whatever its split."""
    numbers = pa.list_(pa.float32())
    return pa.table(
        {
            "table": [name] * len(table),
            "text": np.arange(len(table), dtype=np.int32),
            "features": pa.array(np.array(table.features).tolist(), numbers),
            "distance": pa.array(np.array(table.distance).tolist(), numbers),
        }
    )

"""Route tables of made-up numbers: three kinds of text, each served best by the structures that carry its name."""

from __future__ import annotations

import numpy as np

from plasticity_env.dynamic.route_table import RouteTable

KINDS = ("plays", "code", "records")
SHARES = (0.3, 0.6)


def made_table(texts: int = 20, seed: int = 0, noise: float = 0.05, signals: bool = False) -> RouteTable:
    """A table of so many texts of each kind; prefixes tell the kinds apart, and how hard a text is; signals are of 2 x 4."""
    random = np.random.default_rng(seed)
    kind = np.repeat(np.arange(len(KINDS)), texts)
    labels = ["", *(label for label in (*KINDS, "mixture") for _ in SHARES)]
    shares = np.array([0.0, *(share for _ in (*KINDS, "mixture") for share in SHARES)])
    hard = random.uniform(0.5, 1.5, len(kind))
    centres = random.normal(size=(len(KINDS), 8)) * 3
    hidden = centres[kind] + random.normal(size=(len(kind), 8))
    features = np.concatenate([hidden, hard[:, None], 2 * hard[:, None]], 1).astype(np.float32)
    distance = np.linalg.norm(hidden[:, None] - centres, axis=2).astype(np.float32)
    own = np.array([[KINDS[number] == label for label in labels] for number in kind])
    mixed = np.array([label == "mixture" for label in labels])
    rise = shares**2 * np.where(own, 0.3, np.where(mixed, 0.8, 1.6)) * hard[:, None]
    rise = np.where(shares > 0, rise + noise * shares * random.normal(size=rise.shape), 0.0)
    dense = 3.0 + 0.2 * kind[:, None] + 0.1 * random.normal(size=(len(kind), 1))
    probe = dense + np.where(shares > 0, rise + 0.2 * shares * random.normal(size=rise.shape), 0.0)
    return RouteTable(
        kind=kind,
        features=features,
        loss=(dense + rise).astype(np.float32),
        static_loss=(dense + 1.02 * rise).astype(np.float32),
        probe=probe.astype(np.float32),
        distance=distance,
        kinds=KINDS,
        structures=("dense", *(f"{label}@{share:g}" for label in (*KINDS, "mixture") for share in SHARES)),
        labels=tuple(labels),
        shares=tuple(shares.tolist()),
        flops=tuple((1e6 * (1 - 0.5 * shares)).tolist()),
        kv_bytes=tuple((4096 * (1 - 0.9 * shares)).tolist()),
        reader_flops=5e3,
        tokens=256,
        prefix_tokens=32,
        model="made up",
        signals=random.uniform(size=(len(kind), 2, 4, 3)).astype(np.float32) if signals else None,
    )

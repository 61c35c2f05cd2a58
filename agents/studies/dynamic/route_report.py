"""Tables of the route study: what each way of choosing costs at equal mean FLOPs.

    python -m plasticity_env.agents.studies.dynamic.route_report runs/routes

Rise of the loss in nats over the dense model, on the tokens after the prefix; ratios to the best static structure with
intervals of a bootstrap over texts, paired, draws together.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from plasticity_env.agents.studies.dynamic.route_study import FALSE_ALARMS, WITHOUT
from plasticity_env.common.errors import InputError
from plasticity_env.dynamic.fitting import MIXTURE
from plasticity_env.dynamic.route_table import RouteTable

RESAMPLES = 10_000


@dataclass(frozen=True)
class Options:
    """What is reported.

    Attributes:
        folder: Folder that the study wrote.
        held_out: The kind that a second mixture never saw.
    """

    folder: tyro.conf.Positional[Path]
    held_out: str = "german"


@dataclass(frozen=True)
class Draw:
    """What one draw measured.

    Attributes:
        test, train: Tables.
        mixtures: Losses text by text by the names of `route_study`.
    """

    test: RouteTable
    train: RouteTable | None
    mixtures: dict[str, np.ndarray]


Pick = Callable[[Draw, float], np.ndarray]  # numbers of structures for the test texts


def of_share(table: RouteTable, share: float, mixture: bool = False) -> list[int]:
    """Numbers of the structures of one share, the mixture's left out unless asked for."""
    return [
        number
        for number, (label, theirs) in enumerate(zip(table.labels, table.shares, strict=True))
        if abs(theirs - share) < 1e-9 and number and (mixture or label != MIXTURE)
    ]


def own(draw: Draw, share: float) -> np.ndarray:
    """The structure that was fitted on each text's kind."""
    table = draw.test
    by_label = {table.labels[number]: number for number in of_share(table, share)}
    return np.array([by_label[table.kinds[kind]] for kind in table.kind])


def nearest(draw: Draw, share: float) -> np.ndarray:
    """The kind whose calibration prefixes lie nearest."""
    return np.array(of_share(draw.test, share))[draw.test.distance.argmin(1)]


def best_probe(draw: Draw, share: float) -> np.ndarray:
    """The structure under which the prefix's own loss is lowest: all are tried."""
    numbers = of_share(draw.test, share)
    return np.array(numbers)[draw.test.probe[:, numbers].argmin(1)]


def best_in_hindsight(draw: Draw, share: float) -> np.ndarray:
    """The structure that serves each text best: nobody can know."""
    numbers = of_share(draw.test, share, mixture=True)
    return np.array(numbers)[draw.test.loss[:, numbers].argmin(1)]


def at_random(draw: Draw, share: float) -> np.ndarray:
    """Any of the kinds' structures."""
    numbers = np.array(of_share(draw.test, share))
    return numbers[np.random.default_rng(0).integers(len(numbers), size=len(draw.test))]


def mixture(draw: Draw, share: float) -> np.ndarray:
    """The mixture's structure after a dense prefix."""
    (number,) = set(of_share(draw.test, share, mixture=True)) - set(of_share(draw.test, share))
    return np.full(len(draw.test), number)


def learned(draw: Draw, share: float) -> np.ndarray:
    """The lowest predicted loss, of a regression on the training texts' prefixes."""
    numbers = of_share(draw.test, share, mixture=True)
    return np.array(numbers)[predicted(draw, draw.test)[:, numbers].argmin(1)]


def predicted(draw: Draw, table: RouteTable) -> np.ndarray:
    """(N, K) rises of the loss that ridge regressions on the training texts predict."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if draw.train is None:
        raise InputError("this draw has no training texts yet: let the study finish")
    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 3, 9)))
    rises = np.log(np.maximum(draw.train.loss - draw.train.loss[:, :1], 1e-3))
    model.fit(_inputs(draw.train), rises)
    found: np.ndarray = np.exp(model.predict(_inputs(table)))
    found[:, 0] = 0.0
    return found


def _inputs(table: RouteTable) -> np.ndarray:
    near = np.exp(-(table.distance - table.distance.min(1, keepdims=True)))
    return np.concatenate([table.features, near / near.sum(1, keepdims=True)], 1)


ARMS: dict[str, Pick] = {
    "each kind's own (label oracle)": own,
    "nearest texts": nearest,
    "lowest prefix loss, all tried": best_probe,
    "learned, one share": learned,
    "the mixture's, after a dense prefix": mixture,
    "at random": at_random,
    "best in hindsight, text by text": best_in_hindsight,
}


def report(draws: list[Draw], held_out: str) -> str:
    """The report in Markdown."""
    first = draws[0].test
    shares = sorted({share for share in first.shares if share})
    lines = [
        f"{first.model}, {len(first)} test texts of {len(first.kinds)} kinds, {first.tokens} tokens, {len(draws)} draws.",
        "",
    ]
    for share in shares:
        lines += [*_shares(draws, share), ""]
    lines += [
        *_levels(draws, shares),
        "",
        *_kinds(draws, shares),
        "",
        *_held_out(draws, shares, held_out),
        "",
        _accuracy(draws),
    ]
    return "\n".join(lines)


def _equal(draw: Draw, share: float) -> str:
    dense = draw.test.prefix_tokens / draw.test.tokens
    return f"{MIXTURE}@{round((1 - dense) * share, 4):g}"


def _rise(table: RouteTable, losses: np.ndarray) -> np.ndarray:
    found: np.ndarray = losses - table.loss[:, 0]
    return found


def _shares(draws: list[Draw], share: float) -> list[str]:
    static = [_rise(draw.test, draw.mixtures[_equal(draw, share)]) for draw in draws]
    whole = [_rise(draw.test, draw.test.static_loss[:, mixture(draw, share)[0]]) for draw in draws]
    lines = [
        f"### {share:.0%} of the heads",
        "",
        "| way | rise, nats (by draw) | mean | over static [95%] | FLOPs kept |",
        "|---|---|---:|---:|---:|",
        _row(f"best static structure, {_equal(draws[0], share)}", static, static, _static_flops(draws, share)),
    ]
    for name, pick in ARMS.items():
        if pick is learned and any(draw.train is None for draw in draws):
            continue
        picked = [pick(draw, share) for draw in draws]
        rises = [_rise(d.test, d.test.loss[np.arange(len(d.test)), p]) for d, p in zip(draws, picked, strict=True)]
        probes = 0.0
        if pick is best_probe:
            numbers = of_share(draws[0].test, share)
            probes = draws[0].test.prefix_tokens * sum(draws[0].test.flops[k] for k in numbers) / draws[0].test.flops[0]
        kept = np.mean([d.test.flops_kept(p, probes).mean() for d, p in zip(draws, picked, strict=True)])
        lines.append(_row(name, rises, static, float(kept)))
    for rate in FALSE_ALARMS:
        name = f"picks@{share:g}, {rate:g} false alarms"
        if all(name in draw.mixtures for draw in draws):
            picked = [draw.mixtures[name].astype(int) for draw in draws]
            rises = [_rise(d.test, d.test.loss[np.arange(len(d.test)), p]) for d, p in zip(draws, picked, strict=True)]
            kept = np.mean([d.test.flops_kept(p).mean() for d, p in zip(draws, picked, strict=True)])
            lines.append(
                _row(
                    f"nearest texts, unknown ones to the mixture ({rate:.0%} false alarms)", rises, static, float(kept)
                )
            )
    for way in ("own", "nearest"):
        name = f"{way}@{share:g} after {MIXTURE}"
        if all(name in draw.mixtures for draw in draws):
            lines.append(_under_mixture(draws, share, name))
    if not np.isnan(whole).any():
        name = f"{MIXTURE}@{share:g}"
        lines.append(_row(f"static at the share itself, {name}", whole, static, _flops_of(draws, name)))
    return lines


def _under_mixture(draws: list[Draw], share: float, name: str) -> str:
    """A row of texts whose prefix ran under the mixture's structure, beside the static one at as many FLOPs.

    That one's losses lie on the line between the mixtures at the two shares that were measured.
    """
    at_share, at_equal = _flops_of(draws, f"{MIXTURE}@{share:g}"), _static_flops(draws, share)
    kept, rises, static = [], [], []
    for draw in draws:
        (spent,) = draw.mixtures[f"FLOPs@{share:g} after {MIXTURE}"]
        weight, table = (spent - at_share) / (at_equal - at_share), draw.test
        low, high = table.static_loss[:, mixture(draw, share)[0]], draw.mixtures[_equal(draw, share)]
        kept.append(spent)
        static.append(_rise(table, (1 - weight) * low + weight * high))
        rises.append(_rise(table, draw.mixtures[name]))
    said = {"own": "each kind's own", "nearest": "nearest texts"}[name.split("@")[0]]
    return _row(f"{said}, prefix under the mixture (over static at these FLOPs)", rises, static, float(np.mean(kept)))


def _static_flops(draws: list[Draw], share: float) -> float:
    """FLOPs of the mixture at the smaller share: between those that were measured, to which FLOPs are linear in heads."""
    dense = draws[0].test.prefix_tokens / draws[0].test.tokens
    at = [float(draw.test.flops[mixture(draw, share)[0]] / draw.test.flops[0]) for draw in draws]
    return float(1 - (1 - dense) * (1 - np.mean(at)))


def _flops_of(draws: list[Draw], name: str) -> float:
    return float(np.mean([d.test.flops[d.test.structures.index(name)] / d.test.flops[0] for d in draws]))


def _row(name: str, rises: list[np.ndarray], static: list[np.ndarray], kept: float) -> str:
    ratio, low, high = _ratio(rises, static)
    said = ", ".join(f"{rise.mean():.3f}" for rise in rises)
    mean = np.mean([rise.mean() for rise in rises])
    return f"| {name} | {said} | {mean:.3f} | {ratio:.3f} [{low:.3f}, {high:.3f}] | {kept:.4f} |"


def _ratio(rises: list[np.ndarray], static: list[np.ndarray]) -> tuple[float, float, float]:
    """The ratio of means, with a 95% interval of a paired bootstrap over texts, the same texts in every draw."""
    mine, theirs = np.mean(rises, 0), np.mean(static, 0)
    random = np.random.default_rng(0).integers(len(mine), size=(RESAMPLES, len(mine)))
    ratios = mine[random].mean(1) / theirs[random].mean(1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(mine.mean() / theirs.mean()), float(low), float(high)


def _levels(draws: list[Draw], shares: list[float]) -> list[str]:
    """Choosing the level by the text: as many FLOPs in the mean as one share for all."""
    if any(draw.train is None for draw in draws):
        return []
    lines = ["### Levels by difficulty, at the FLOPs of one share for all", ""]
    lines += [
        "| share for all | label oracle | learned levels | over the oracle [95%] | FLOPs kept |",
        "|---|---:|---:|---:|---:|",
    ]
    for share in shares:
        rises, oracle, kept = [], [], []
        for draw in draws:
            table, wanted = draw.test, float(draw.test.flops_kept(own(draw, share)).mean())
            picked = _priced(predicted(draw, table), table, wanted)
            rises.append(_rise(table, table.loss[np.arange(len(table)), picked]))
            oracle.append(_rise(table, table.loss[np.arange(len(table)), own(draw, share)]))
            kept.append(float(table.flops_kept(picked).mean()))
        said = "{:.3f} [{:.3f}, {:.3f}]".format(*_ratio(rises, oracle))
        lines.append(f"| {share:.0%} | {np.mean(oracle):.3f} | {np.mean(rises):.3f} | {said} | {np.mean(kept):.4f} |")
    return lines


def _priced(rises: np.ndarray, table: RouteTable, wanted: float) -> np.ndarray:
    """Structures of least predicted rise plus price times FLOPs, at the price that keeps so many FLOPs in the mean."""
    flops, low, high = np.asarray(table.flops) / table.flops[0], 0.0, 1e3
    for _ in range(60):
        price = (low + high) / 2
        picked = (rises + price * flops).argmin(1)
        low, high = (price, high) if table.flops_kept(picked).mean() > wanted else (low, price)
    found: np.ndarray = (rises + high * flops).argmin(1)
    return found


def _kinds(draws: list[Draw], shares: list[float]) -> list[str]:
    table = draws[0].test
    lines = ["### By kind, rise in nats: own structure / static at equal FLOPs", ""]
    lines += ["| share | " + " | ".join(table.kinds) + " |", "|---|" + "---:|" * len(table.kinds)]
    for share in shares:
        cells = []
        for kind in range(len(table.kinds)):
            mine = [
                _rise(d.test, d.test.loss[np.arange(len(d.test)), own(d, share)])[d.test.kind == kind].mean()
                for d in draws
            ]
            theirs = [_rise(d.test, d.mixtures[_equal(d, share)])[d.test.kind == kind].mean() for d in draws]
            cells.append(f"{np.mean(mine):.3f} / {np.mean(theirs):.3f}")
        lines.append(f"| {share:.0%} | " + " | ".join(cells) + " |")
    return lines


def _held_out(draws: list[Draw], shares: list[float], kind: str) -> list[str]:
    """The kind without a structure of its own, and a mixture that never saw it."""
    lines = [f"### {kind} held out: rise in nats", ""]
    rates = [
        rate for rate in FALSE_ALARMS if all(f"{kind} unknown, {rate:g} false alarms" in d.mixtures for d in draws)
    ]
    names = [
        "nearest other kind",
        *(f"unknown ones to the mixture ({rate:.0%} false alarms)" for rate in rates),
        "mixture of the others, dense prefix",
        "static mixture of the others",
        "own",
    ]
    lines += ["| share | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for share in shares:
        rows = []
        for draw in draws:
            table = draw.test
            mine = table.kind == table.kinds.index(kind)
            dense, at = table.loss[mine, 0], np.arange(int(mine.sum()))
            numbers = [number for number in of_share(table, share) if table.labels[number] != kind]
            others = [place for place, label in enumerate(_labels(table)) if label != kind]
            picked = np.array(numbers)[table.distance[mine][:, others].argmin(1)]
            equal = _equal(draw, share).replace(MIXTURE, WITHOUT)
            nearest_other, mixed = (
                table.loss[mine][at, picked],
                draw.mixtures[f"{WITHOUT}@{share:g} after a dense prefix"],
            )
            flagged = [draw.mixtures[f"{kind} unknown, {rate:g} false alarms"] > 0 for rate in rates]
            rows.append(
                [
                    (nearest_other - dense).mean(),
                    *((np.where(unknown, mixed, nearest_other) - dense).mean() for unknown in flagged),
                    (mixed - dense).mean(),
                    (draw.mixtures[equal] - dense).mean(),
                    (table.loss[mine][at, own(draw, share)[mine]] - dense).mean(),
                ]
            )
        lines.append(f"| {share:.0%} | " + " | ".join(f"{value:.3f}" for value in np.mean(rows, 0)) + " |")
    return lines


def _labels(table: RouteTable) -> list[str]:
    return [label for label in dict.fromkeys(table.labels[1:]) if label != MIXTURE]


def _accuracy(draws: list[Draw]) -> str:
    right = [
        np.mean(
            [
                _labels(d.test)[place] == d.test.kinds[k]
                for place, k in zip(d.test.distance.argmin(1), d.test.kind, strict=True)
            ]
        )
        for d in draws
    ]
    return (
        "Nearest texts name the kind right in " + ", ".join(f"{share:.1%}" for share in right) + " of the test texts."
    )


def read(folder: Path) -> list[Draw]:
    """The draws whose test texts were played."""
    found = []
    for path in sorted(folder.glob("draw*")):
        if (path / "test").is_dir() and (path / "more.json").is_file():
            train = RouteTable.load(path / "train") if (path / "train").is_dir() else None
            mixtures = {name: np.array(losses) for name, losses in json.loads((path / "more.json").read_text()).items()}
            found.append(Draw(RouteTable.load(path / "test"), train, mixtures))
    if not found:
        raise InputError(f"no finished draw in {str(folder)!r}: play route_study first")
    return found


if __name__ == "__main__":
    options = tyro.cli(Options)
    print(report(read(options.folder), options.held_out))

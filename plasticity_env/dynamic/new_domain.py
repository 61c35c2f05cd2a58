"""Is this text of none of the domains that there are? A test with a stated rate of false alarms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from plasticity_env.common.errors import InputError, check_least
from plasticity_env.common.values import check_number
from plasticity_env.dynamic.bank import DENSE
from plasticity_env.dynamic.domain_body import Domains

SMALLEST = 1e-6  # a spread of losses, nats


@dataclass(frozen=True)
class Verdict:
    """What the test says of chunks.

    Attributes:
        novelty: (n,) how far each chunk, or the window that it ends, is from what the domain that suits it best usually reads, in
            standard deviations; -inf where fewer chunks came than a window holds.
        limit: What a chunk of a known domain exceeds with at most the stated rate.
        suits: Names of the domains that suit the chunks best.
        losses: (n, K) losses under each domain of the test, in nats per token.
    """

    novelty: Tensor
    limit: float
    suits: list[str]
    losses: Tensor

    @property
    def is_new(self) -> Tensor:
        """(n,) boolean, True for chunks that no domain explains."""
        return self.novelty > self.limit


class NewDomainTest:
    """Tells chunks of a text that no domain knows.

    Under each domain a chunk has a loss, and a gain over the dense body's loss. Both are compared with those of the domain's own
    recent chunks; the greater number of standard deviations by which they are worse is how badly the domain suits the chunk.
    A chunk's novelty is that of the domain that suits it best. Every other recent chunk gives means and spreads, the rest the
    limit: the quantile of their novelty that an exchangeable chunk exceeds with at most the stated rate (split conformal
    prediction, Vovk et al. 2005). With a window, the same holds of means over so many chunks in a row: what is a little new
    everywhere is noticed, some chunks later.

    Args:
        domains: The domains, trained.
        held_out: (n, T) chunks that no domain was trained on, by the name of their domain; the domains that are named are the
            known ones, and the body itself may be one of them.
        false_alarms: Rate of known chunks that are called new, at most; in (0, 1).
        recent: Chunks of each domain that are remembered.
        window: Chunks in a row that are judged together.
        batch_size: Sequences in one pass.

    Raises:
        InputError: No such domain, too few chunks for the rate, or a number out of range.
    """

    def __init__(
        self,
        domains: Domains,
        held_out: Mapping[str, Tensor],
        false_alarms: float = 0.01,
        recent: int = 512,
        window: int = 1,
        batch_size: int = 8,
    ) -> None:
        self.false_alarms = check_number("false_alarms", false_alarms, 0, 1, above=True, below=True)
        self.recent, self.window = check_least("recent", recent, 4), check_least("window", window, 1)
        if not held_out:
            raise InputError("the test needs held-out chunks by the name of their domain, got none")
        self.domains, self.names, self._batch_size = domains, [domains[name].name for name in held_out], batch_size
        for name, ids in held_out.items():
            if ids.ndim != 2 or len(ids) < 4:
                raise InputError(f"the test needs at least 4 held-out chunks of {name!r}, got {tuple(ids.shape)}")
        self._rows = {name: self._losses(ids[-recent:]) for name, ids in held_out.items()}
        self._fit()

    def judge(self, input_ids: Tensor) -> Verdict:
        """What the test says of (n, T) chunks, in the order in which they came; nothing is remembered."""
        losses = self._losses(input_ids)
        best = self._windows(self._scores(losses)).min(1)
        early = best.values.new_full((len(losses) - len(best.values),), -math.inf)
        closest = self._scores(losses[: len(early)]).argmin(1).tolist() + best.indices.tolist()
        suits = [self.names[number] for number in closest]
        return Verdict(torch.cat([early, best.values]), self.limit, suits, losses[:, :-1])

    def note(self, name: str, input_ids: Tensor) -> None:
        """Remember (n, T) chunks of a known domain in the place of its oldest ones.

        Raises:
            InputError: The domain is none of the test's.
        """
        if name not in self._rows:
            raise InputError(
                f"{name!r} is no domain of this test, which knows {', '.join(self.names)}: make another test"
            )
        self._rows[name] = torch.cat([self._rows[name], self._losses(input_ids)])[-self.recent :]
        self._fit()

    def _losses(self, input_ids: Tensor) -> Tensor:
        """(n, K + 1) losses of chunks under the known domains, then under the dense body."""
        found: dict[str, Tensor] = {}
        for name in [*self.names, DENSE]:
            if name not in found:
                found[name] = self.domains.losses(input_ids, name, self._batch_size).double()
        return torch.stack([found[name] for name in [*self.names, DENSE]], 1)

    def _fit(self) -> None:
        own = [self._own(rows[::2], place) for place, rows in enumerate(self._rows.values())]
        self._mean = torch.stack([values.mean(0) for values in own])  # (K, 2)
        self._spread = torch.stack([values.std(0) for values in own]).clamp(min=SMALLEST)
        windows = [self._windows(self._scores(rows[1::2]))[:: self.window] for rows in self._rows.values()]
        novelty = torch.cat([each.min(1).values for each in windows]).sort().values
        rank = math.ceil((len(novelty) + 1) * (1 - self.false_alarms))
        if rank > len(novelty):
            needed = 2 * self.window * math.ceil((1 - self.false_alarms) / self.false_alarms)
            raise InputError(
                f"a rate of {self.false_alarms:g} false alarms a chunk takes some {needed} held-out chunks in all, got "
                f"{sum(map(len, self._rows.values()))}: give more, or allow more false alarms"
            )
        self.limit = float(novelty[rank - 1])

    def _windows(self, scores: Tensor) -> Tensor:
        """(n - window + 1, K) means over all windows, none where there are fewer chunks than one holds."""
        if len(scores) < self.window:
            return scores[:0]
        return scores.unfold(0, self.window, 1).mean(-1)

    def _scores(self, rows: Tensor) -> Tensor:
        """(n, K) how badly each domain suits each chunk, in standard deviations."""
        columns = []
        for place in range(len(self.names)):
            away = (self._own(rows, place) - self._mean[place]) / self._spread[place]
            columns.append(away.max(1).values)
        return torch.stack(columns, 1)

    def _own(self, rows: Tensor, place: int) -> Tensor:
        """(n, 2) a domain's loss and what it is above the dense body's, which for the body itself is 0."""
        return torch.stack([rows[:, place], rows[:, place] - rows[:, -1]], 1)

"""Which domain a text belongs to: the one whose texts begin most alike, or the one that reads its first tokens best."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from plasticity_env.common.errors import InputError, check_least, unknown
from plasticity_env.dynamic.bank import DENSE
from plasticity_env.dynamic.domain_body import Domains
from plasticity_env.dynamic.nearest import TextDistances
from plasticity_env.dynamic.prefix import PrefixReader
from plasticity_env.dynamic.routed_model import PREFIX

WAYS = ("nearest", "loss")


class DomainRouter:
    """Picks a domain for each text from its first tokens.

    Args:
        domains: The domains.
        texts: (n, T) token ids of texts of each domain that may be picked, by its name.
        by: ``"nearest"``: the body reads the first tokens once, and the domain is picked whose texts lie nearest on the mean
            (`TextDistances`, as `NearestTexts` picks structures); ``"loss"``: every domain reads them, and the one with the
            lowest loss is picked, which costs a pass for each and needs nothing of the texts but their names.
        prefix_tokens: Number of first tokens that are read.

    Raises:
        InputError: No text, no such domain or way, or a number below 2.
    """

    def __init__(
        self, domains: Domains, texts: Mapping[str, Tensor], *, by: str = "nearest", prefix_tokens: int = PREFIX
    ) -> None:
        if not texts:
            raise InputError("a router of domains needs texts by the name of their domain, got none")
        if by not in WAYS:
            raise unknown("way to pick a domain", by, WAYS)
        self.domains, self.by = domains, by
        self.prefix_tokens = check_least("prefix_tokens", prefix_tokens, 2)
        self._prefixes: dict[str, Tensor] = {}
        for name, ids in texts.items():
            self.learn(name, ids)

    @property
    def names(self) -> list[str]:
        """Names of the domains that may be picked."""
        return list(self._prefixes)

    def learn(self, name: str, input_ids: Tensor) -> None:
        """Let a domain be picked.

        Args:
            name: The domain; it is learnt anew where it is known.
            input_ids: (n, T) token ids of texts of it.

        Raises:
            InputError: There is no such domain.
        """
        name = self.domains[name].name
        self._prefixes[name] = self._read(input_ids) if self.by == "nearest" else torch.empty(0)
        if self.by == "nearest":
            self._distances = TextDistances.of(self._prefixes)

    def pick(self, input_ids: Tensor) -> list[str]:
        """Names of the domains of (n, T) texts."""
        if self.by == "nearest":
            scores = self._distances.between(self._read(input_ids))
        else:
            first = input_ids[:, : self.prefix_tokens]
            scores = torch.stack([self.domains.losses(first, name) for name in self.names], 1)
        return [self.names[number] for number in scores.argmin(1).tolist()]

    def _read(self, input_ids: Tensor) -> Tensor:
        """(n, 2 E) what the first tokens tell the body."""
        with self.domains.using(DENSE) as model:
            return PrefixReader(model).read(input_ids[:, : self.prefix_tokens]).pooled.cpu()

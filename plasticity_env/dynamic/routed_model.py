"""A model that picks a structure for each text: its first tokens run dense, a router looks at them, the rest runs pruned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from plasticity_env.common.errors import InputError, check_least
from plasticity_env.common.lru import Memo
from plasticity_env.dynamic.bank import StructureBank
from plasticity_env.dynamic.cut_cache import cut_cache
from plasticity_env.dynamic.nearest import NearestTexts
from plasticity_env.dynamic.prefix import PrefixReader, PrefixView
from plasticity_env.dynamic.requests import Requests
from plasticity_env.dynamic.token_routes import TokenRoutes
from plasticity_env.model.contexts import evaluating
from plasticity_env.model.inputs import check_ids

PREFIX = 32


class Router(Protocol):
    """What picks a structure for each request.

    One that compares prefixes with others says under which structure those ran in an attribute ``prefix_structure``.
    """

    def pick(self, view: PrefixView) -> Tensor:
        """(B,) numbers of structures for B texts, from what their first tokens tell."""
        ...


@dataclass(frozen=True)
class Routing:
    """How requests were run.

    Attributes:
        structures: (B,) numbers of the structures that were picked after the prefix.
        prefix: (B,) tokens that ran before them.
        flops_kept: Forward FLOPs of all tokens over the dense model's, router and prefix included.
    """

    structures: Tensor
    prefix: Tensor
    flops_kept: float


class RoutedModel:
    """Runs each text under a structure of its own.

    The first ``prefix_tokens`` tokens of a request (all but the last one, where it has no more) run under
    ``prefix_structure`` and stay in the KV cache; the router picks, and all further tokens run under its choice. Requests of
    one batch may run under different structures.

    Args:
        bank: Structures of a model. Those of several shares need a router that chooses among them.
        router: Picks; None: the structure whose texts begin most alike (`NearestTexts`), of the share that the bank has.
        prefix_tokens: Number P of first tokens that the router reads.
        prefix_structure: Name or number of the structure under which the prefix runs. None: the one that the router knows
            prefixes under; where the router is the bank's own, the mixture's, which is the better one at equal FLOPs;
            else the dense one.
        switch_every: Pick anew after each so many generated tokens, from what they tell; None: once a request.

    Attributes:
        last: How the last call ran its requests.

    Raises:
        InputError: No such structure, a number below 1, or a router that knows prefixes under another structure.
    """

    def __init__(
        self,
        bank: StructureBank,
        router: Router | None = None,
        *,
        prefix_tokens: int = PREFIX,
        prefix_structure: int | str | None = None,
        switch_every: int | None = None,
    ) -> None:
        check_least("prefix_tokens", prefix_tokens, 1)
        if switch_every is not None:
            check_least("switch_every", switch_every, 1)
        self.bank, self.model = bank, bank.model
        known: int | None = getattr(router, "prefix_structure", None)  # a router may look at any prefix
        if prefix_structure is None:
            mixtures = [name for name in bank.pruned_prefixes if router is None and len(bank.shares) == 1]
            prefix_structure = mixtures[0] if mixtures else known or 0
        self.router: Router = NearestTexts(bank, under=prefix_structure) if router is None else router
        self.prefix_tokens, self.switch_every = prefix_tokens, switch_every
        self.prefix_structure = bank.index(prefix_structure)
        if known is not None and known != self.prefix_structure:
            raise InputError(
                f"prefix_structure is {bank[self.prefix_structure].name!r}, but this router knows prefixes that ran under "
                f"{bank[known].name!r}: leave prefix_structure out, or pass a router made for it"
            )
        self.reader = PrefixReader(self.model)
        self.last: Routing | None = None
        self._routes = TokenRoutes(self.model, list(bank))
        self._compacted: Memo[Any] = Memo(4)

    # -- whole texts -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def read_prefix(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> PrefixView:
        """What the first tokens of requests tell.

        Args:
            input_ids: (B, T), padded on the left where lengths differ.
            attention_mask: (B, T), 1 for text.
        """
        return self._prefix(Requests.cut(input_ids, attention_mask, self.prefix_tokens), keep=False)[0]

    @torch.no_grad()
    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, structures: Tensor | None = None
    ) -> Tensor:
        """(B, T, V) logits of whole texts, each under its own structure after its prefix.

        Args:
            input_ids: (B, T), padded on the left where lengths differ.
            attention_mask: (B, T), 1 for text.
            structures: (B,) numbers of structures; None: what the router picks.

        Raises:
            InputError: Padding elsewhere, ids that the model has no row for, or no such structure.
        """
        requests = self._requests(input_ids, attention_mask)
        if structures is None:
            structures = self._picked(self._prefix(requests, keep=False)[0])
        plan = _Plan(self, requests, self._checked(structures, len(input_ids)))
        with self._running(), self._routes.along(plan.routes):
            extra = {} if attention_mask is None else {"attention_mask": requests.mask, "position_ids": requests.places}
            logits: Tensor = self.model.model(input_ids=requests.ids, use_cache=False, **extra).logits
        self._note(plan, requests.lengths)
        return logits

    __call__ = forward

    # -- generation ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        structures: Tensor | None = None,
        compacted: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Continue texts, as the model's own ``generate`` does, each under its own structure.

        Args:
            input_ids: (B, T) prompts, padded on the left where lengths differ.
            attention_mask: (B, T), 1 for text.
            structures: (B,) numbers of structures; None: what the router picks.
            compacted: Run smaller models after the prefix: what a structure prunes is removed, in one model for each
                structure that was picked: fewer seconds, more memory (the last four are kept).
            **kwargs: Arguments of Hugging Face's ``generate``.

        Returns:
            What Hugging Face's ``generate`` returns: (B, T + new) tokens, or its output object.

        Raises:
            InputError: Padding elsewhere than on the left, an own cache, ``compacted`` or beams with ``switch_every``.
        """
        if "past_key_values" in kwargs:
            raise InputError("a routed model makes its own KV cache: leave past_key_values out")
        requests = self._requests(input_ids, attention_mask)
        beams = max(int(kwargs.get("num_beams") or 1), int(kwargs.get("num_return_sequences") or 1))
        if self.switch_every is not None and (compacted or beams > 1):
            raise InputError(
                "switch_every picks anew while it generates: leave compacted, beams and several returns out"
            )
        cached = kwargs.get("use_cache", True) and kwargs.get("cache_implementation") is None
        self._check_window(requests, int(kwargs.get("max_new_tokens") or 0))
        view, cache = self._prefix(requests, keep=cached)
        picked = self._checked(self._picked(view) if structures is None else structures, len(requests.ids))
        if compacted:
            if not cached or beams > 1 or kwargs.get("return_dict_in_generate"):
                raise InputError(
                    "compacted takes the prefix's own cache, one sequence a prompt, and returns tokens only"
                )
            return self._in_groups(requests, picked, cache, kwargs)
        plan = _Plan(self, requests, picked, copies=beams)
        if cached:
            if beams > 1:
                cache.batch_repeat_interleave(beams)
            kwargs["past_key_values"] = cache
        with self._running(), self._routes.along(plan.routes), plan.hearing():
            ids, mask = (requests.moved, requests.moved_mask) if cached else (requests.ids, requests.mask)
            out = self.model.model.generate(ids, attention_mask=mask, **kwargs)  # type: ignore[operator]
        tokens = out if isinstance(out, Tensor) else out.sequences
        whole = requests.continued(tokens[:, ids.shape[1] :])
        self._note(plan, requests.lengths + whole.shape[1] - requests.ids.shape[1])
        if isinstance(out, Tensor):
            return whole
        out.sequences = whole
        return out

    def _in_groups(self, requests: Requests, picked: Tensor, cache: Any, kwargs: dict[str, Any]) -> Tensor:
        """Generate with a smaller model for each structure, one after the other."""
        rows: dict[int, Tensor] = {}
        for number in picked.unique().tolist():
            mine = (picked == number).nonzero().flatten()
            smaller = self._smaller(number)
            part = requests.rows(mine)
            seen = cut_cache(cache, self.model, self.bank[number].active, mine, smaller.config)
            out = smaller.generate(part.moved, attention_mask=part.moved_mask, past_key_values=seen, **kwargs)
            rows |= dict(zip(mine.tolist(), part.continued(out[:, part.moved.shape[1] :]), strict=True))
        longest = max(len(row) for row in rows.values())
        pad = kwargs.get("pad_token_id")
        if pad is None:
            generation = self.model.model.generation_config
            pad = generation.pad_token_id if generation.pad_token_id is not None else 0  # type: ignore[union-attr]
        whole = requests.ids.new_full((len(rows), longest), int(pad))  # type: ignore[arg-type]
        for number, row in rows.items():
            whole[number, : len(row)] = row
        self._note(_Plan(self, requests, picked), requests.lengths + longest - requests.ids.shape[1])
        return whole

    def _smaller(self, number: int) -> Any:
        known = self._compacted.get((number, self.model.weight_version))
        if known is None:
            made = self.model.model if number == 0 else self.bank.compacted(number)
            known = self._compacted.put((number, self.model.weight_version), made)
        return known

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _requests(self, input_ids: Tensor, attention_mask: Tensor | None) -> Requests:
        check_ids(self.model, input_ids)
        return Requests.cut(
            input_ids.to(self.model.device),
            None if attention_mask is None else attention_mask.to(self.model.device),
            self.prefix_tokens,
        )

    def _prefix(self, requests: Requests, keep: bool) -> tuple[PrefixView, Any]:
        """Run the prefixes; with ``keep`` also their KV cache."""
        cache = DynamicCache(config=self.model.config) if keep else None
        everywhere = torch.full((1, 1), self.prefix_structure, dtype=torch.long)
        with (
            self._running(),
            self._routes.along(lambda places: everywhere.expand(places.shape)),
            self.reader.listening() as tap,
        ):
            out = self.model.model(
                input_ids=requests.prefix_ids,
                attention_mask=requests.prefix_mask,
                position_ids=requests.prefix_places,
                past_key_values=cache,
                use_cache=keep,
            )
        return self.reader.view(tap, out.logits, requests.prefix_ids, requests.prefix_mask.bool()), cache

    def _picked(self, view: PrefixView) -> Tensor:
        return torch.as_tensor(self.router.pick(view))

    def _checked(self, structures: Tensor, requests: int) -> Tensor:
        numbers = torch.as_tensor(structures).cpu()
        if tuple(numbers.shape) != (requests,) or numbers.dtype.is_floating_point or numbers.dtype == torch.bool:
            raise InputError(f"structures must be {requests} whole numbers, one a request, got {structures!r}")
        for number in numbers.tolist():
            self.bank.index(number)
        return numbers.long()

    def _check_window(self, requests: Requests, new_tokens: int) -> None:
        """Padding lies between a prefix and the rest, which a sliding window would take for text."""
        window = getattr(self.model.config, "sliding_window", None)
        columns = requests.moved.shape[1] + new_tokens
        if window and bool((requests.lengths != requests.lengths[0]).any()) and columns > int(window):
            raise InputError(
                f"prompts of different lengths must fit the model's sliding window of {window} tokens, these take {columns}: "
                "call generate once for each length"
            )

    @contextmanager
    def _running(self) -> Iterator[None]:
        if not bool(self.model.active.all()) or self.model.repaired_sites:
            raise InputError("a routed model runs on the dense weights: call model.make_dense() first")
        with evaluating(self.model.model):
            yield

    def _note(self, plan: _Plan, lengths: Tensor) -> None:
        self.last = Routing(plan.first, plan.requests.prefix, self.flops_kept(plan, lengths.cpu()))

    def flops_kept(self, plan: _Plan, lengths: Tensor) -> float:
        """Forward FLOPs of requests of these lengths over the dense model's, as if what is pruned were removed.

        Where later tokens may run under another structure, keys and values count that the present one does not read.
        """
        spent = dense = 0.0
        for row, length in enumerate(lengths.tolist()):
            costs = self.bank.flops(int(length), all_keys=self.switch_every is not None)
            first = self.bank.flops(int(length), all_keys=True)[self.prefix_structure]
            prefix, counts = plan.counts(row, int(length))
            spent += prefix * float(first) + self.reader.flops
            spent += sum(count * float(costs[number]) for number, count in counts.items())
            dense += length * float(costs[0])
        return spent / dense


class _Plan:
    """Under which structure each token of each request runs.

    Args:
        owner: Requests that the rows belong to.
        requests: Lengths and prefixes.
        picked: (B,) structures after the prefix.
        copies: Sequences a request while it generates.
    """

    def __init__(self, owner: RoutedModel, requests: Requests, picked: Tensor, copies: int = 1) -> None:
        self._owner, self.requests, self.first = owner, requests, picked
        self._segments = [picked.repeat_interleave(copies)]  # from the end of the prompt on, of ``switch_every`` tokens
        self._prefix = requests.prefix.cpu().repeat_interleave(copies)
        self._prompt = requests.lengths.cpu().repeat_interleave(copies)
        self._views: list[PrefixView] = []

    def routes(self, places: Tensor) -> Tensor:
        """(B, T) numbers of structures for tokens at these places."""
        places = places.cpu()
        if len(places) != len(self._prefix):
            raise InputError(f"{len(places)} sequences run where {len(self._prefix)} were asked for")
        every = self._owner.switch_every
        segment = torch.zeros_like(places)
        if every is not None:
            segment = ((places - self._prompt[:, None]) // every).clamp(min=0)
            while int(segment.max()) >= len(self._segments):
                self._segments.append(self._again())
        chosen = torch.stack(self._segments, 1).gather(1, segment)
        return torch.where(places < self._prefix[:, None], self._owner.prefix_structure, chosen)

    def _again(self) -> Tensor:
        """Pick from what the tokens since the last pick tell; as before where none were heard."""
        if not self._views:
            return self._segments[-1]
        weights = torch.stack([view.tokens for view in self._views]).float()  # (n, B)

        def mean(name: str) -> Tensor:
            values = torch.stack([getattr(view, name).float() for view in self._views])  # (n, B, ...)
            shares = (weights / weights.sum(0).clamp(min=1)).view(*weights.shape, *[1] * (values.ndim - 2))
            return (values * shares).sum(0)

        view = PrefixView(mean("hidden"), mean("loss"), mean("entropy"), weights.sum(0).long(), mean("pooled"))
        self._views.clear()
        return self._owner._picked(view).cpu().long()

    @contextmanager
    def hearing(self) -> Iterator[None]:
        """Note what generated tokens tell, where structures may change on the way."""
        if self._owner.switch_every is None:
            yield
            return
        model = self._owner.model.model
        with self._owner.reader.listening() as tap:
            last: list[Tensor] = []

            def note(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
                ids = args[0] if args else kwargs["input_ids"]
                if ids.shape[1] == 1:  # one new token each: its hidden states, and how well it was predicted
                    log = output.logits[:, -1].float().log_softmax(-1)
                    states = [state[:, -1:] for state in tap.states]
                    heard = type(tap)(states)
                    ones = torch.ones_like(ids, dtype=torch.bool)
                    view = self._owner.reader.view(heard, output.logits[:, -1:], ids, ones)
                    loss = -last[0].gather(1, ids)[:, 0] if last else torch.zeros_like(view.loss)
                    self._views.append(replace(view, loss=loss))
                    last[:] = [log]

            hook = model.register_forward_hook(note, with_kwargs=True)
            try:
                yield
            finally:
                hook.remove()

    def counts(self, row: int, length: int) -> tuple[int, dict[int, int]]:
        """Tokens of one request in its prefix, and after it under each structure."""
        every, prompt = self._owner.switch_every, int(self._prompt[row])
        prefix = min(int(self._prefix[row]), length)
        found: dict[int, int] = {}
        for place in range(prefix, length):
            segment = 0 if every is None else min(max(0, place - prompt) // every, len(self._segments) - 1)
            number = int(self._segments[segment][row])
            found[number] = found.get(number, 0) + 1
        return prefix, found

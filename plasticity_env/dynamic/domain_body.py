"""Domains: kinds of text that one model learns one after the other, each with a little of its own over a frozen body."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plasticity_env.common.digests import plain_name
from plasticity_env.common.errors import InputError, check_least, unknown
from plasticity_env.common.values import brief
from plasticity_env.data.batches import as_batches
from plasticity_env.dynamic.bank import DENSE
from plasticity_env.dynamic.domain import Domain, merged, own_names, projections_by_weight, unit_keys, unit_pieces
from plasticity_env.dynamic.domain_files import read_domains, write_domains
from plasticity_env.dynamic.fitting import fit_structures
from plasticity_env.dynamic.low_rank import LowRankRows, new_rows
from plasticity_env.dynamic.structure import Structure
from plasticity_env.model.flops import flop_table
from plasticity_env.model.modes import PruningMode
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.signals.measure import sequence_losses
from plasticity_env.signals.moment_files import weights_digest
from plasticity_env.signals.text_sums import gather_sums
from plasticity_env.training.optimizer import get_plasticity_optimizer
from plasticity_env.training.trainer import PlasticityTrainer, TrainStep


class Domains:
    """Kinds of text over one frozen body; the first, ``"dense"``, is the body itself and is always there.

    A domain has norms, biases and the token embedding for its own, a structure (mask and repair), and if asked for the weights
    of some units or low-rank rows. Training one leaves body and all other domains as they are, to the bit.

    Args:
        model: The body: dense, and edited from here on through this object alone.

    Attributes:
        model: The model, as the domain in use.
        used: Name of the domain in use.

    Raises:
        InputError: The model is no `PlasticModel`, pruned or repaired at the moment, or cannot revive.
    """

    def __init__(self, model: PlasticModel) -> None:
        if not isinstance(model, PlasticModel):
            raise InputError(f"domains need a PlasticModel, got {brief(model)}")
        if not bool(model.active.all()) or model.repaired_sites:
            raise InputError("domains need the dense model: call model.make_dense() first")
        if model.mode is PruningMode.COMPRESSED:
            raise InputError("domains prune and revive units, which compressed mode forbids: wrap with mode='adaptive'")
        self.model, self.used = model, DENSE
        everything = torch.ones(model.shape, dtype=torch.bool)
        self._domains = {DENSE: Domain(DENSE, {}, Structure(DENSE, everything, {}), ~everything)}
        self._displaced: dict[str, Tensor] = {}  # the body's values of what the domain in use replaced
        model.notice_changes()
        self._version = model.weight_version

    # -- reading -----------------------------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """Names of the domains, the body's first."""
        return list(self._domains)

    def __len__(self) -> int:
        return len(self._domains)

    def __getitem__(self, name: str) -> Domain:
        if name not in self._domains:
            raise unknown("domain", name, self.names)
        return self._domains[name]

    def parameters(self, name: str) -> int:
        """How many numbers a domain has for its own."""
        return self[name].parameters

    def flops(self, name: str, seq_len: int) -> float:
        """Forward FLOPs per token under a domain, as if what it prunes were removed; merged rows are free."""
        return flop_table(self.model, seq_len).total(self[name].structure.active)

    def losses(self, input_ids: Tensor, name: str | None = None, batch_size: int = 8) -> Tensor:
        """(n,) mean losses of (n, T) texts under a domain, in nats per token; None: under the one in use."""
        with self.using(self.used if name is None else name), torch.no_grad():
            chunks = input_ids.split(batch_size)
            return torch.cat([sequence_losses(self.model, ids.to(self.model.device)).cpu() for ids in chunks])

    # -- changing domains --------------------------------------------------------------------------------------------

    def use(self, name: str) -> None:
        """Make the model the one of a domain; what it was before comes back to the bit when that is used again.

        Raises:
            InputError: There is no such domain, or somebody else changed the model's weights since.
        """
        domain = self[name]
        self._refuse_changes()
        if name != self.used:
            self._leave()
            self._install(domain)

    @contextmanager
    def using(self, name: str) -> Iterator[PlasticModel]:
        """Use a domain for a moment, then the one that was used before."""
        before = self.used
        self.use(name)
        try:
            yield self.model
        finally:
            self.use(before)

    # -- making domains ----------------------------------------------------------------------------------------------

    def add(
        self,
        name: str,
        *,
        like: str = DENSE,
        embedding: bool = True,
        units: Tensor | None = None,
        rank: int = 0,
        seed: int = 0,
    ) -> Domain:
        """Add a domain that computes what another one computes, until it is trained or pruned.

        Args:
            name: Its name: letters, digits, ``.``, ``_`` and ``-``.
            like: The domain that it starts from.
            embedding: Whether the token embedding is its own.
            units: (L, U) boolean, units whose weights are its own: those that another domain prunes, say. They start from the
                weights that they have, as `PlasticModel.revive` brings them back.
            rank: Width of low-rank rows beside every projection; 0 has none.
            seed: Fixes what the rows start from.

        Raises:
            InputError: The name is taken or no plain name, units that ``like`` prunes or of another shape, a rank that is too
                high, or units and rows at once.
        """
        if plain_name(name) in self._domains:
            raise InputError(f"there is a domain {name!r} already: give this one another name")
        start, rank = self[like], check_least("rank", rank, 0)
        units = start.units if units is None else torch.as_tensor(units).cpu()
        if units.dtype != torch.bool or tuple(units.shape) != self.model.shape:
            raise InputError(f"units must be boolean of shape {self.model.shape}, got {brief(units)}")
        if bool((units & ~start.structure.active).any()):
            raise InputError(f"domain {like!r} prunes some of these units: start from another one, such as {DENSE!r}")
        if (rank > 0) + bool(start.low_rank) + bool(units.any()) > 1:
            raise InputError(
                "a domain has units or low-rank rows for its own, not both nor two lots of rows: leave rank or units out, or "
                f"start from {DENSE!r}"
            )
        rows = new_rows(self.model, rank, seed) if rank else start.low_rank
        with self.using(like):
            parameters = dict(self.model.model.named_parameters())
            own = {key: parameters[key].detach().clone() for key in {*own_names(self.model, embedding), *start.own}}
            weights = {key: _copies(unit_pieces(self.model, key)) for key in unit_keys(self.model, units)}
        self._domains[name] = Domain(name, dict(sorted(own.items())), start.structure, units, weights, rows)
        return self._domains[name]

    def prune(self, name: str, input_ids: Tensor, share: float, batch_size: int = 4) -> Structure:
        """Give a domain a structure that is fitted to a text as that domain reads it, in the place of the one that it has.

        Units go by their price in turn, and the least-squares repair makes up for them, as `build_bank` does it.

        Args:
            name: The domain; ``"dense"`` keeps all units.
            input_ids: (n, T) token ids of its text.
            share: Share of the units that go: by number where heads are the only units, else by FLOPs.
            batch_size: Sequences in one pass.

        Raises:
            InputError: No such domain, a share outside [0, 1), or a text that cannot be read.
        """
        self._refuse_body(name, "pruned")
        dense, before = self[DENSE].structure, self.used
        whole = replace(self[name], structure=dense)
        self.use(DENSE)
        try:
            self._install(whole)
            sums = gather_sums(self.model, input_ids, batch_size=batch_size)
            (structure,) = fit_structures(self.model, sums, (share,), input_ids.shape[1], name)
            units = whole.units & structure.active
            keys = unit_keys(self.model, units)
            self._put_on(structure)
            weights = {key: _copies(unit_pieces(self.model, key)) for key in keys}  # with what the repair adds to them
        except BaseException:
            self._leave()
            self.use(before)
            raise
        self._leave()
        self._domains[name] = replace(whole, structure=structure, units=units, unit_weights=weights)
        self.use(before)
        return structure

    def train(
        self,
        name: str,
        data: Any,
        steps: int,
        *,
        learning_rate: float = 1e-3,
        batch_size: int = 8,
        seed: int = 0,
        on_step: Callable[[TrainStep], None] | None = None,
    ) -> list[TrainStep]:
        """Train what a domain has for its own, by AdamW without weight decay; body and other domains stay, to the bit.

        Args:
            name: The domain, which is the one in use afterwards; ``"dense"`` has nothing to train.
            data: (n, T) packed blocks, a data loader, or a function of the batch's number.
            steps: Optimizer steps.
            learning_rate: Learning rate.
            batch_size, seed: For blocks: sequences in a batch, and what fixes their order.
            on_step: Called after each step, with the model as it is then.

        Returns:
            One record a step.

        Raises:
            InputError: No such domain, or what `PlasticityTrainer` refuses; then, and where anything else ends the training, all
                is as it was before.
        """
        self._refuse_body(name, "trained")
        domain, before = self[name], self.used
        rows = LowRankRows(domain.low_rank) if domain.low_rank else None
        self.use(DENSE)
        try:
            self._install(domain, rows is None)
            with self._only_own(domain), nullcontext() if rows is None else rows.beside(self.model, domain):
                trainer = PlasticityTrainer(
                    self.model,
                    as_batches(data, batch_size, seed),
                    optimizer=get_plasticity_optimizer(self.model, learning_rate, 0.0),
                )
                taken = trainer.run(steps, on_step)
            trained = self._as_trained(domain, rows)
        except BaseException:
            self._leave()
            self.use(before)
            raise
        self._domains[name] = trained
        self._leave()
        self._install(trained)
        return taken

    # -- files -------------------------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the domains (not the body) as one folder: ``domains.json``, ``domains.safetensors``, digests.

        Raises:
            InputError: Something else lies there.
        """
        with self.using(DENSE):
            write_domains(folder, [self[name] for name in self.names[1:]], weights_digest(self.model))

    @classmethod
    def from_pretrained(cls, folder: str | Path, model: PlasticModel) -> Domains:
        """Read what `save_pretrained` wrote, over the body that it was trained on.

        Raises:
            InputError: No domains there, damaged ones, or those of another body.
        """
        domains = cls(model)
        for domain in read_domains(folder, model, weights_digest(model)):
            domains._domains[domain.name] = domain
        return domains

    # -- parts -------------------------------------------------------------------------------------------------------

    def _install(self, domain: Domain, with_rows: bool = True) -> None:
        """Write a domain onto the body; keeps what it replaces."""
        parameters = dict(self.model.model.named_parameters())
        self._displaced = {name: parameters[name].detach().clone() for name in self._touched(domain, parameters)}
        self.used = domain.name
        with torch.no_grad():
            for name, value in domain.own.items():
                parameters[name].data.copy_(value)
            if with_rows:
                projections = projections_by_weight(self.model)
                for name, (down, up) in domain.low_rank.items():
                    parameters[name].data.add_(merged(projections[name], down, up))
            self._write_units(domain)
            self._put_on(domain.structure)
            self._write_units(domain)  # as they are with the repair that runs through them
        self._changed()

    def _put_on(self, structure: Structure) -> None:
        self.model.set_active(structure.active)
        for site in self.model.sites:
            weight = structure.repaired(site)
            if weight is not None:
                self.model.apply_repair(site.index, weight, None)

    def _write_units(self, domain: Domain) -> None:
        for key, values in domain.unit_weights.items():
            for piece, value in zip(unit_pieces(self.model, key), values, strict=True):
                piece.data.copy_(value)

    def _leave(self) -> None:
        """Make the model the body again, to the bit."""
        self.model.make_dense()
        parameters = dict(self.model.model.named_parameters())
        for name, value in self._displaced.items():
            parameters[name].data.copy_(value)
        self._displaced, self.used = {}, DENSE
        self._changed()

    def _touched(self, domain: Domain, parameters: dict[str, Any]) -> list[str]:
        names = {id(value): name for name, value in parameters.items()}
        pieces = [piece for key in domain.unit_weights for piece in unit_pieces(self.model, key)]
        pieces += [self.model.sites[index].output_slice(0) for index in domain.structure.mixes]
        touched = {*domain.own, *domain.low_rank, *(names[id(piece.parameter)] for piece in pieces)}
        return sorted(touched)

    @contextmanager
    def _only_own(self, domain: Domain) -> Iterator[None]:
        """Gradients for what the domain has for its own, and for nothing else."""
        parameters = dict(self.model.model.named_parameters())
        before = {name: value.requires_grad for name, value in parameters.items()}
        masks: dict[int, tuple[Any, Tensor]] = {}
        for key in domain.unit_weights:
            for piece in unit_pieces(self.model, key):
                whole = masks.setdefault(id(piece.parameter), (piece.parameter, torch.zeros_like(piece.parameter.data)))
                piece.narrow(whole[1]).fill_(1)
        hooks = []
        try:
            for name, value in parameters.items():
                value.requires_grad_(name in domain.own or id(value) in masks)
            for value, mask in masks.values():
                hooks.append(value.register_hook(lambda gradient, mask=mask: gradient * mask))
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for name, value in parameters.items():
                value.requires_grad_(before[name])
                value.grad = None

    def _as_trained(self, domain: Domain, rows: LowRankRows | None) -> Domain:
        parameters = dict(self.model.model.named_parameters())
        return replace(
            domain,
            own={name: parameters[name].detach().clone() for name in domain.own},
            unit_weights={key: _copies(unit_pieces(self.model, key)) for key in domain.unit_weights},
            low_rank=domain.low_rank if rows is None else rows.values(),
        )

    def _changed(self) -> None:
        self.model.weights_changed()
        self._version = self.model.weight_version

    def _refuse_changes(self) -> None:
        self.model.refuse_if_retired()
        self.model.notice_changes()
        if self.model.weight_version != self._version:
            raise InputError(
                f"the weights changed since domain {self.used!r} came into use: train through domains.train, or make Domains of "
                "the model as it is now"
            )

    def _refuse_body(self, name: str, what: str) -> None:
        if self[name].name == DENSE:
            raise InputError(f"{DENSE!r} is the body, which is never {what}: domains.add a domain first")


def _copies(pieces: list[Any]) -> list[Tensor]:
    return [piece.data.detach().clone(memory_format=torch.contiguous_format) for piece in pieces]

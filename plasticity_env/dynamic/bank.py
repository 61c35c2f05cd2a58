"""A bank: many structures over one set of weights."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from plasticity_env.common.digests import checked_folder, write_manifest
from plasticity_env.common.errors import InputError, first_line, unknown
from plasticity_env.common.files import new_folder, write_text
from plasticity_env.common.values import brief, user_path
from plasticity_env.dynamic.structure import Structure
from plasticity_env.model.flops import CostTable, flop_table, kv_cache_table
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.signals.moment_files import weights_digest

DENSE = "dense"
DESCRIPTION, TENSORS = "bank.json", "bank.safetensors"
FORMAT = 1


class StructureBank:
    """Structures of one model; the first, ``"dense"``, prunes nothing and is always there.

    Args:
        model: The model, dense; its weights are read and never changed, but by `installed`.
        structures: Further structures.
        prefixes: By label, (n, 2 E): what the first tokens tell of the texts that its structures were fitted on
            (`PrefixView.pooled`), in the dense model.
        pruned_prefixes: The same by the name of the structure under which the first tokens ran.

    Raises:
        InputError: The model is pruned or repaired at the moment, or a structure is not of this model.
    """

    def __init__(
        self,
        model: PlasticModel,
        structures: Iterable[Structure] = (),
        prefixes: Mapping[str, Tensor] | None = None,
        pruned_prefixes: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> None:
        if not isinstance(model, PlasticModel):
            raise InputError(f"a bank needs a PlasticModel, got {brief(model)}")
        if not bool(model.active.all()) or model.repaired_sites:
            raise InputError("a bank needs the dense model: call model.make_dense() first")
        self.model = model
        self.prefixes: dict[str, Tensor] = dict(prefixes or {})
        self.pruned_prefixes = {name: dict(of) for name, of in (pruned_prefixes or {}).items()}
        self._structures = [Structure(DENSE, torch.ones(model.shape, dtype=torch.bool), {})]
        for structure in structures:
            self.add(structure)

    def add(self, structure: Structure) -> None:
        """Add a structure.

        Raises:
            InputError: If it belongs to another model, or its name is taken.
        """
        structure.check(self.model)
        if structure.name in self.names:
            raise InputError(f"the bank holds a structure {structure.name!r} already: give this one another name")
        self._structures.append(structure)

    # -- reading -----------------------------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """Names of the structures, the dense one first."""
        return [structure.name for structure in self._structures]

    @property
    def labels(self) -> list[str]:
        """The kinds of text that structures were fitted on, in order."""
        return list(dict.fromkeys(structure.label for structure in self._structures[1:]))

    @property
    def shares(self) -> list[float]:
        """The shares that structures prune, in order."""
        return sorted({structure.share for structure in self._structures[1:]})

    def __len__(self) -> int:
        return len(self._structures)

    def __iter__(self) -> Iterator[Structure]:
        return iter(self._structures)

    def __getitem__(self, which: int | str) -> Structure:
        return self._structures[self.index(which)]

    def index(self, which: int | str) -> int:
        """The number of a structure, by name or number.

        Raises:
            InputError: There is none.
        """
        if isinstance(which, str):
            if which not in self.names:
                raise unknown("structure", which, self.names)
            return self.names.index(which)
        if not 0 <= which < len(self):
            raise InputError(f"structure {which} does not exist: the bank holds 0 (dense) to {len(self) - 1}")
        return int(which)

    def find(self, label: str, share: float) -> int:
        """The number of the structure that was fitted on a kind of text and prunes a share.

        Raises:
            InputError: There is none.
        """
        for number, structure in enumerate(self._structures[1:], 1):
            if structure.label == label and abs(structure.share - share) < 1e-9:
                return number
        raise InputError(
            f"the bank holds no structure of {label!r} that prunes {share:g}: it has {', '.join(self.names)}"
        )

    def only(self, share: float) -> StructureBank:
        """The same bank with the dense structure and those that prune one share."""
        chosen = [structure for structure in self._structures[1:] if abs(structure.share - share) < 1e-9]
        if not chosen:
            raise InputError(f"no structure prunes {share:g}: the bank has {', '.join(f'{s:g}' for s in self.shares)}")
        names = [structure.name for structure in chosen]
        pruned = {name: of for name, of in self.pruned_prefixes.items() if name in names}
        return StructureBank(self.model, chosen, self.prefixes, pruned)

    def prefixes_under(self, which: int | str) -> dict[str, Tensor]:
        """The (n, 2 E) prefixes of each label as they ran under a structure; empty where nobody read them so."""
        structure = self[which]
        return self.prefixes if structure.is_dense else self.pruned_prefixes.get(structure.name, {})

    # -- costs -------------------------------------------------------------------------------------------------------

    def flops(self, seq_len: int, all_keys: bool = False) -> Tensor:
        """(K,) forward FLOPs per token of each structure at a sequence length, as if what it prunes were removed.

        Args:
            seq_len: Length T of a sequence.
            all_keys: Count the keys and values of every KV group that any structure reads: what a token costs where later ones
                may run under another structure.
        """
        table, masks = flop_table(self.model, seq_len), self._masks()
        if not all_keys:
            return table.totals(masks)
        groups = masks[..., : self.model.heads].unflatten(-1, (-1, table.group_size)).any(-1)  # (K, L, G)
        missing = (groups.any(0) & ~groups).sum((1, 2)).double()
        return table.totals(masks) + table.group * missing

    def kv_bytes(self) -> Tensor:
        """(K,) bytes that one more token adds to the KV cache under each structure."""
        return self._totals(kv_cache_table(self.model))

    def size_share(self, which: int | str) -> float:
        """What a structure adds to memory, as a share of the model's parameters."""
        parameters = sum(parameter.numel() for parameter in self.model.model.parameters())
        return self[which].numbers / parameters

    def _masks(self) -> Tensor:
        return torch.stack([structure.active for structure in self._structures])

    def _totals(self, table: CostTable) -> Tensor:
        return table.totals(self._masks())

    # -- as a model --------------------------------------------------------------------------------------------------

    def install(self, which: int | str) -> None:
        """Put a structure onto the model itself, for exports and `compact`; ``install(0)`` makes it dense again, to the bit."""
        structure = self[which]
        self.model.make_dense()
        self.model.set_active(structure.active)
        for site in self.model.sites:
            weight = structure.repaired(site)
            if weight is not None:
                self.model.apply_repair(site.index, weight, None)

    def compacted(self, which: int | str) -> PreTrainedModel:
        """A physically smaller model of one structure, with weights of its own; the bank's model is left dense."""
        self.install(which)
        try:
            return self.model.compact()
        finally:
            self.model.make_dense()

    # -- files ---------------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write the structures (not the weights) as one folder: ``bank.json``, ``bank.safetensors``, digests.

        Raises:
            InputError: Something else lies there.
        """
        path = user_path(folder, "a bank")
        tensors: dict[str, Tensor] = {f"prefix.{label}": rows for label, rows in self.prefixes.items()}
        for name, prefixes in self.pruned_prefixes.items():
            tensors |= {f"under.{self.index(name)}.{label}": rows for label, rows in prefixes.items()}
        entries: list[dict[str, Any]] = []
        for number, structure in enumerate(self._structures[1:], 1):
            tensors[f"{number}.active"] = structure.active
            tensors |= {f"{number}.mix.{site}": mix for site, mix in structure.mixes.items()}
            entries.append({"name": structure.name, "label": structure.label, "share": structure.share})
        description = {"format": FORMAT, "weights": weights_digest(self.model), "structures": entries}
        with new_folder(path, replace=(path / DESCRIPTION).is_file()) as temporary:
            save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, temporary / TENSORS)
            write_text(temporary / DESCRIPTION, json.dumps(description, indent=1) + "\n")
            write_manifest(temporary, DESCRIPTION, TENSORS)

    @classmethod
    def load(cls, folder: str | Path, model: PlasticModel) -> StructureBank:
        """Read what `save` wrote, onto the model whose weights it was fitted on.

        Raises:
            InputError: No bank there, a damaged one, or one of other weights.
        """
        path = user_path(folder, "a bank")
        if not (path / DESCRIPTION).is_file():
            raise InputError(f"no bank at {str(path)!r} (no {DESCRIPTION}): make one with build_bank(...).save(folder)")
        try:
            with checked_folder(path):
                description = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
                tensors = load_file(path / TENSORS)
                structures = [_structure(number, entry, tensors, model) for number, entry in _numbered(description)]
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"the bank at {str(path)!r} is damaged ({first_line(error)})") from error
        if description.get("weights") != weights_digest(model):
            raise InputError(
                f"the bank at {str(path)!r} was fitted on other weights than this model's: load that model"
            )
        prefixes = {name.removeprefix("prefix."): rows for name, rows in tensors.items() if name.startswith("prefix.")}
        pruned: dict[str, dict[str, Tensor]] = {}
        for name, rows in tensors.items():
            if name.startswith("under."):
                _, number, label = name.split(".", 2)
                pruned.setdefault(structures[int(number) - 1].name, {})[label] = rows
        return cls(model, structures, prefixes, pruned)


def _numbered(description: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    if description["format"] != FORMAT:
        raise ValueError(f"format {description['format']!r} is not {FORMAT}: a newer version wrote it")
    return list(enumerate(description["structures"], 1))


def _structure(number: int, entry: dict[str, Any], tensors: dict[str, Tensor], model: PlasticModel) -> Structure:
    start = f"{number}.mix."
    mixes = {
        int(name.removeprefix(start)): mix.to(model.device) for name, mix in tensors.items() if name.startswith(start)
    }
    return Structure(str(entry["name"]), tensors[f"{number}.active"], mixes, str(entry["label"]), float(entry["share"]))

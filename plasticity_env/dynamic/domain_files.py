"""Domains in a folder: JSON for what they are, safetensors for their numbers, digests for both."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from plasticity_env.common.digests import checked_folder, plain_name, write_manifest
from plasticity_env.common.errors import InputError, first_line
from plasticity_env.common.files import new_folder, write_text
from plasticity_env.common.values import user_path
from plasticity_env.dynamic.domain import Domain
from plasticity_env.dynamic.structure import Structure
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.model.unit_weights import Key

DESCRIPTION, TENSORS = "domains.json", "domains.safetensors"
FORMAT = 1


def write_domains(folder: str | Path, domains: Sequence[Domain], body: str) -> None:
    """Write domains as one folder.

    Args:
        folder: The folder; domains that lie there are replaced.
        domains: The domains, without the body.
        body: SHA-256 of the body's weights.

    Raises:
        InputError: Something else lies there.
    """
    path = user_path(folder, "a folder of domains")
    tensors = {f"{number}.{name}": t for number, domain in enumerate(domains) for name, t in domain.tensors.items()}
    entries = [
        {
            "name": each.name,
            "structure": each.structure.name,
            "label": each.structure.label,
            "share": each.structure.share,
        }
        for each in domains
    ]
    with new_folder(path, replace=(path / DESCRIPTION).is_file()) as temporary:
        save_file(
            {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, temporary / TENSORS
        )
        said = {"format": FORMAT, "weights": body, "domains": entries}
        write_text(temporary / DESCRIPTION, json.dumps(said, indent=1) + "\n")
        write_manifest(temporary, DESCRIPTION, TENSORS)


def read_domains(folder: str | Path, model: PlasticModel, body: str) -> list[Domain]:
    """Read what `write_domains` wrote.

    Args:
        folder: The folder.
        model: The body.
        body: SHA-256 of its weights.

    Raises:
        InputError: No domains there, damaged ones, or those of another body.
    """
    path = user_path(folder, "a folder of domains")
    if not (path / DESCRIPTION).is_file():
        raise InputError(
            f"no domains at {str(path)!r} (no {DESCRIPTION}): write them with domains.save_pretrained(folder)"
        )
    try:
        with checked_folder(path):
            description = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
            if description["format"] != FORMAT:
                raise ValueError(f"format {description['format']!r} is not {FORMAT}: a newer version wrote it")
            if description["weights"] != body:
                raise InputError(
                    f"the domains at {str(path)!r} were trained over another body than this model's weights: load that model"
                )
            tensors = {name: value.to(model.device) for name, value in load_file(path / TENSORS).items()}
            domains = [_domain(number, entry, tensors) for number, entry in enumerate(description["domains"])]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"the domains at {str(path)!r} are damaged ({first_line(error)})") from error
    for domain in domains:
        domain.check(model)
    if len({domain.name for domain in domains}) < len(domains):
        raise InputError(f"the domains at {str(path)!r} are damaged: two have one name")
    return domains


def _domain(number: int, entry: dict[str, Any], tensors: Mapping[str, Tensor]) -> Domain:
    start = f"{number}."
    mine = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
    own, mixes = _under("own.", mine), {int(site): mix for site, mix in _under("mix.", mine).items()}
    ups = _under("up.", mine)
    low_rank = {name: (down, ups[name]) for name, down in _under("down.", mine).items()}
    places: dict[Key, dict[int, Tensor]] = {}
    for name, value in _under("unit.", mine).items():
        kind, layer, index, place = name.split(".")
        places.setdefault((int(layer), int(index), kind), {})[int(place)] = value
    weights = {key: [values[place] for place in range(len(values))] for key, values in places.items()}
    structure = Structure(
        str(entry["structure"]), mine["active"].cpu(), mixes, str(entry["label"]), float(entry["share"])
    )
    return Domain(plain_name(entry["name"]), own, structure, mine["units"].cpu(), weights, low_rank)


def _under(start: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}

"""Structures over one set of weights: what runs through them is what the pruned and repaired model computes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from plasticity_env import InputError, PlasticModel
from plasticity_env.dynamic import Structure, StructureBank, build_bank, fit_structures, measure_routes
from plasticity_env.dynamic.fitting import cheapest
from plasticity_env.dynamic.route_table import RouteTable, static_losses
from plasticity_env.dynamic.token_routes import TokenRoutes
from plasticity_env.model.flops import flop_table
from plasticity_env.signals.measure import sequence_losses
from plasticity_env.signals.text_sums import gather_sums
from tests.conftest import HEADS_ONLY, build


def texts(count: int = 12, length: int = 12) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    return {
        "low": torch.randint(0, 40, (count, length), generator=random),
        "high": torch.randint(70, 128, (count, length), generator=random),
    }


def bank_of(architecture: str, mlp_blocks: int = 2, shares: tuple[float, ...] = (0.3, 0.6)) -> StructureBank:
    model = PlasticModel(build(architecture).double(), mlp_blocks=0 if architecture in HEADS_ONLY else mlp_blocks)
    return build_bank(model, texts(), shares)


@torch.no_grad()
def test_tokens_run_as_in_the_installed_structure(architecture: str, ids: torch.Tensor) -> None:
    bank = bank_of(architecture)
    model, dense = bank.model, bank.model.model(input_ids=ids).logits
    routes = TokenRoutes(model, list(bank))
    for number in range(1, len(bank)):
        with routes.along(lambda places, number=number: torch.full_like(places, number)):
            routed = model.model(input_ids=ids).logits
        bank.install(number)
        installed = model.model(input_ids=ids).logits
        bank.install(0)
        assert float((installed - dense).abs().max()) > 1e-3
        assert torch.allclose(routed, installed, rtol=1e-6, atol=1e-6 * float(dense.abs().max()))
    assert torch.equal(model.model(input_ids=ids).logits, dense)  # switching leaves no trace


@torch.no_grad()
def test_a_batch_may_hold_several_structures(ids: torch.Tensor) -> None:
    bank = bank_of("llama")
    routes, alone = TokenRoutes(bank.model, list(bank)), []
    for row in range(3):
        with routes.along(lambda places, row=row: torch.full_like(places, row)):
            alone.append(bank.model.model(input_ids=ids[row : row + 1]).logits[0])
    with routes.along(lambda places: torch.arange(3)[:, None].expand(places.shape)):
        together = bank.model.model(input_ids=ids).logits
    assert torch.allclose(together, torch.stack(alone), atol=1e-9)


def test_a_bank_costs_little_and_says_what_it_saves() -> None:
    bank = bank_of("llama")
    assert bank.names == ["dense", "low@0.3", "low@0.6", "high@0.3", "high@0.6", "mixture@0.3", "mixture@0.6"]
    assert bank.shares == [0.3, 0.6]
    assert bank.labels == ["low", "high", "mixture"]
    flops = bank.flops(12)
    table = flop_table(bank.model, 12)
    assert float(flops[0]) == table.total(bank.model.active)
    assert [float(f) for f in flops] == [table.total(structure.active) for structure in bank]
    owned = table.total(bank.model.active) - table.base
    assert all(float(flops[0] - flops[bank.find(label, 0.6)]) <= 0.6 * owned + 1e-6 for label in bank.labels)
    assert (bank.flops(12, all_keys=True) >= flops).all()
    assert bank.size_share("dense") == 0
    assert 0 < bank.size_share("low@0.3") < 0.2
    assert bank.only(0.3).names == ["dense", "low@0.3", "high@0.3", "mixture@0.3"]


@torch.no_grad()
def test_a_compacted_structure_is_the_structure(ids: torch.Tensor) -> None:
    bank = bank_of("gpt2")
    before = {name: value.clone() for name, value in bank.model.model.state_dict().items()}
    small = bank.compacted("low@0.6")
    assert sum(p.numel() for p in small.parameters()) < sum(v.numel() for v in before.values())
    with TokenRoutes(bank.model, list(bank)).along(lambda places: torch.full_like(places, bank.index("low@0.6"))):
        assert torch.allclose(small(input_ids=ids).logits, bank.model.model(input_ids=ids).logits, atol=1e-8)
    after = bank.model.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_the_last_head_stays_and_shares_are_kept() -> None:
    model = PlasticModel(build("llama"))
    table, priority = flop_table(model, 12), torch.arange(8.0).view(2, 4)
    assert int(cheapest(priority, 0.5, table, by_number=True, heads=4).sum()) == 4
    assert int(cheapest(priority, 0.99, table, by_number=True, heads=4).sum()) == 1
    everything = torch.ones(2, 4, dtype=torch.bool)
    owned = table.total(everything) - table.base
    spent = table.total(everything) - table.total(cheapest(priority, 0.4, table, by_number=False, heads=4))
    assert 0 < spent <= 0.4 * owned


def test_structures_fit_one_text_better_than_another() -> None:
    """Each text's own structure keeps what that text's units say: its repair error is the least on its own text."""
    model, kinds = PlasticModel(build("llama").double()), texts(64)
    own = {label: fit_structures(model, gather_sums(model, ids), (0.5,), 12, label)[0] for label, ids in kinds.items()}
    bank = StructureBank(model, own.values())
    rows = {}
    for site in model.sites:
        if site.gated:
            site.output.register_forward_pre_hook(
                lambda module, args, index=site.index: rows.__setitem__(index, args[0].flatten(0, 1))
            )

    def error(structure: Structure, ids: torch.Tensor) -> float:
        total = 0.0
        with torch.no_grad():
            model.model(input_ids=ids)
            for index, mix in structure.mixes.items():
                kept = model.sites[index].kept_inputs(structure.active)
                total += float((rows[index][:, ~kept] - rows[index][:, kept] @ mix).square().mean())
        return total

    for label, ids in kinds.items():
        other = next(name for name in kinds if name != label)
        mixed = Structure("mixed", own[label].active, own[label].mixes)
        assert len(bank) == 3
        assert error(mixed, ids) < error(mixed, kinds[other])


def test_banks_are_kept_in_files(tmp_path: Path) -> None:
    bank = bank_of("llama")
    bank.save(tmp_path / "bank")
    again = StructureBank.load(tmp_path / "bank", bank.model)
    assert again.names == bank.names
    assert again.prefixes.keys() == bank.prefixes.keys()
    assert torch.equal(again.prefixes_under("mixture@0.6")["low"], bank.pruned_prefixes["mixture@0.6"]["low"])
    for one, other in zip(bank, again, strict=True):
        assert torch.equal(one.active, other.active)
        assert one.label == other.label
        assert one.share == other.share
        assert all(torch.equal(mix, other.mixes[site]) for site, mix in one.mixes.items())
    with pytest.raises(InputError, match="other weights"):
        StructureBank.load(tmp_path / "bank", PlasticModel(build("llama", seed=1).double(), mlp_blocks=2))
    path = tmp_path / "bank" / "bank.json"
    path.write_text(path.read_text().replace("0.6", "0.7", 1))
    with pytest.raises(InputError, match="damaged"):
        StructureBank.load(tmp_path / "bank", bank.model)
    with pytest.raises(InputError, match="no bank at"):
        StructureBank.load(tmp_path / "nothing", bank.model)


def test_bad_banks_are_refused() -> None:
    model = PlasticModel(build("llama"))
    bank = StructureBank(model)
    with pytest.raises(InputError, match="mask of"):
        bank.add(Structure("small", torch.ones(1, 2, dtype=torch.bool), {}))
    cut = torch.ones(model.shape, dtype=torch.bool)
    cut[0, 0] = False
    with pytest.raises(InputError, match="does not fit site 0"):
        bank.add(Structure("odd", cut, {0: torch.zeros(3, 3)}))
    bank.add(Structure("cut", cut, {}))
    with pytest.raises(InputError, match="already"):
        bank.add(Structure("cut", cut, {}))
    for which in ("nothing", 7):
        with pytest.raises(InputError, match="structure"):
            bank[which]
    with pytest.raises(InputError, match="share must"):
        build_bank(model, texts(), (1.5,))
    with pytest.raises(InputError, match="T the same"):
        build_bank(model, {"a": torch.zeros(2, 4, dtype=torch.long), "b": torch.zeros(2, 5, dtype=torch.long)})
    model.prune(~cut)
    with pytest.raises(InputError, match="dense model"):
        StructureBank(model)


def test_route_tables_say_what_the_model_does(tmp_path: Path) -> None:
    bank, kinds = bank_of("llama", shares=(0.5,)), texts(3)
    table = measure_routes(bank, kinds, prefix_tokens=4, batch_size=2, model="llama")
    ids = torch.cat(list(kinds.values()))
    with torch.no_grad():
        logits = bank.model.model(input_ids=ids).logits.float().log_softmax(-1)
    tokens = -logits[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    assert torch.allclose(torch.from_numpy(table.loss[:, 0]), tokens[:, 3:].mean(1))
    assert torch.allclose(torch.from_numpy(table.probe[:, 0]), tokens[:, :3].mean(1))
    bank.install(1)
    whole = sequence_losses(bank.model, ids).double()
    bank.install(0)
    static = (table.probe[:, 1] * 3 + table.static_loss[:, 1] * 8) / 11
    assert torch.allclose(torch.from_numpy(static).double(), whole, atol=1e-6)
    assert table.kind.tolist() == [0, 0, 0, 1, 1, 1]
    assert table.distance.shape == (6, 2)
    assert float(table.flops_kept(0)) == pytest.approx(1 + table.reader_flops / table.flops[0] / 12)
    assert float(table.flops_kept(1)) < 1
    assert len(table.rows([0, 4])) == 2
    table.save(tmp_path / "table")
    again = RouteTable.load(tmp_path / "table")
    assert (again.loss == table.loss).all()
    assert again.structures == table.structures
    half = measure_routes(bank, kinds, prefix_tokens=4, batch_size=2, all_static=False)
    measured = ~torch.from_numpy(half.static_loss).isnan().all(0)
    assert measured.tolist()[0]
    assert int(measured.sum()) == 2
    assert (half.loss == table.loss).all()
    assert torch.allclose(*map(torch.from_numpy, (half.probe, table.probe)))
    said = json.loads((tmp_path / "table" / "routes.json").read_text())
    (tmp_path / "table" / "routes.json").write_text(json.dumps({**said, "tokens": 13}))
    with pytest.raises(InputError, match="damaged"):
        RouteTable.load(tmp_path / "table")


def test_a_prefix_is_shorter_than_the_text() -> None:
    bank = bank_of("llama", shares=(0.5,))
    with pytest.raises(InputError, match="prefix_tokens must lie in"):
        measure_routes(bank, texts(2), prefix_tokens=12)
    after, before = static_losses(bank, texts(2)["low"], 0, 1)
    assert float(before.abs().max()) == 0
    assert len(after) == 2

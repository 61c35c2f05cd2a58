"""Domains: training one leaves all others as they are, to the bit; what is saved comes back; what is new is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from plasticity_env import InputError, PlasticModel
from plasticity_env.dynamic import DomainRouter, Domains, NewDomainTest
from plasticity_env.dynamic.low_rank import rank_of_size
from plasticity_env.model.compact.build import compact
from plasticity_env.model.flops import flops
from plasticity_env.signals.moment_files import weights_digest
from tests.conftest import build
from tests.plasticity_env.dynamic.test_structures import texts

LENGTH = 12


def wrapped(architecture: str = "llama") -> PlasticModel:
    return PlasticModel(build(architecture), mlp_blocks=2)


def domains_of(architecture: str = "llama") -> Domains:
    """A plain domain, a pruned one, one that trains the units that the pruned one gave up, one with low-rank rows."""
    domains, kinds = Domains(wrapped(architecture)), texts()
    domains.add("plain")
    domains.add("pruned")
    domains.prune("pruned", kinds["low"], 0.4)
    domains.add("regrown", units=~domains["pruned"].structure.active)
    domains.add("rows", embedding=False, rank=2)
    return domains


def remembered(domains: Domains) -> dict[str, tuple[str, torch.Tensor]]:
    """Digest of each domain's weights and of the model under it, and the losses of a text."""
    text, found = texts()["high"], {}
    for name in domains.names:
        with domains.using(name):
            found[name] = (domains[name].digest + weights_digest(domains.model), domains.losses(text))
    return found


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_training_one_leaves_the_others_to_the_bit(architecture: str) -> None:
    domains, text = domains_of(architecture), texts()["high"]
    body = weights_digest(domains.model)
    for name in domains.names[1:]:
        before = remembered(domains)
        assert len(domains.train(name, text, 3, learning_rate=1e-2, batch_size=4)) == 3
        assert domains.used == name
        after = remembered(domains)
        assert float(after[name][1].mean()) < float(before[name][1].mean())
        for other in set(domains.names) - {name}:
            assert after[other][0] == before[other][0]
            assert torch.equal(after[other][1], before[other][1])
    domains.use("dense")
    assert weights_digest(domains.model) == body
    assert bool(domains.model.active.all())
    assert not domains.model.repaired_sites


def test_what_is_saved_comes_back_to_the_bit_and_damage_is_found(tmp_path: Path) -> None:
    domains, text = domains_of(), texts()["high"]
    for name in domains.names[1:]:
        domains.train(name, text, 2, learning_rate=1e-2, batch_size=4)
    before = remembered(domains)
    domains.save_pretrained(tmp_path / "domains")
    again = Domains.from_pretrained(tmp_path / "domains", wrapped())
    assert again.names == domains.names
    after = remembered(again)
    assert all(
        after[name][0] == digest and torch.equal(after[name][1], loss) for name, (digest, loss) in before.items()
    )
    other = PlasticModel(build("llama", seed=1), mlp_blocks=2)
    with pytest.raises(InputError, match="another body"):
        Domains.from_pretrained(tmp_path / "domains", other)
    file = tmp_path / "domains" / "domains.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(InputError, match="damaged"):
        Domains.from_pretrained(tmp_path / "domains", wrapped())


def test_a_domain_in_use_is_the_model_that_it_says() -> None:
    domains, kinds = domains_of(), texts()
    domains.train("pruned", kinds["low"], 2, batch_size=4)
    assert domains.flops("pruned", LENGTH) == flops(domains.model, LENGTH) < domains.flops("dense", LENGTH)
    with torch.no_grad():
        masked = domains.model(input_ids=kinds["low"]).logits
        assert torch.allclose(compact(domains.model)(input_ids=kinds["low"]).logits, masked, atol=1e-4)
    rows = domains["rows"].low_rank
    assert domains.parameters("rows") - sum(value.numel() for value in domains["rows"].own.values()) == sum(
        down.numel() + up.numel() for down, up in rows.values()
    )


def test_low_rank_rows_run_through_a_repair_while_they_train_as_they_do_merged() -> None:
    domains, kinds = Domains(PlasticModel(build("llama").double(), mlp_blocks=2)), texts()
    domains.add("rows", rank=2)
    domains.prune("rows", kinds["low"], 0.4)
    seen: list[torch.Tensor] = []

    def look(step: object) -> None:
        with torch.no_grad():
            seen.append(domains.model(input_ids=kinds["low"]).logits)

    domains.train("rows", kinds["low"], 2, learning_rate=1e-2, batch_size=4, on_step=look)
    with torch.no_grad():
        assert torch.allclose(domains.model(input_ids=kinds["low"]).logits, seen[-1], atol=1e-8)
    assert not torch.allclose(seen[0], seen[1], atol=1e-6)


def test_the_router_names_the_domain_and_the_test_a_text_of_none() -> None:
    random = torch.Generator().manual_seed(3)
    kinds = {
        name: torch.randint(low, low + 8, (60, LENGTH), generator=random) for name, low in (("low", 0), ("high", 99))
    }
    domains = Domains(wrapped())
    for name, ids in kinds.items():
        domains.add(name)
        domains.train(name, ids[:30], 30, learning_rate=1e-2)
    unseen = {name: ids[50:] for name, ids in kinds.items()}
    for by in ("nearest", "loss"):
        router = DomainRouter(domains, {name: ids[:30] for name, ids in kinds.items()}, by=by, prefix_tokens=8)
        assert all(router.pick(ids) == [name] * len(ids) for name, ids in unseen.items())
    known = {name: ids[30:50] for name, ids in kinds.items()}
    test = NewDomainTest(domains, known, 0.1)
    assert bool(test.judge(torch.randint(50, 58, (8, LENGTH), generator=random)).is_new.all())
    told = test.judge(unseen["low"])
    assert told.suits == ["low"] * 10
    assert int(told.is_new.sum()) < 5
    test.note("low", unseen["low"])
    slow = NewDomainTest(domains, known, 0.3, window=3)
    chunks = torch.cat([unseen["low"], torch.randint(50, 58, (6, LENGTH), generator=random)])
    seen, alone = slow.judge(chunks), NewDomainTest(domains, known, 0.3).judge(chunks)
    assert torch.isinf(seen.novelty[:2]).all()
    assert not seen.is_new[:2].any()
    assert bool(seen.is_new[12:].all())  # three chunks of the new text
    assert torch.equal(seen.losses, alone.losses)
    assert float(seen.novelty[-1]) >= float(
        alone.novelty[-3:].mean()
    )  # one domain for the window, not the best for each chunk
    assert slow.judge(chunks[:2]).suits == ["low"] * 2
    with pytest.raises(InputError, match="takes some 54 held-out chunks"):
        NewDomainTest(domains, known, 0.1, window=3)
    with pytest.raises(InputError, match="held-out chunks in all, got 40"):
        NewDomainTest(domains, known, 0.01)


def test_bad_input_is_one_sentence_and_changes_nothing() -> None:
    domains, kinds = domains_of(), texts()
    domains.use("regrown")
    before = remembered(domains)
    own = torch.ones(domains.model.shape, dtype=torch.bool)
    for message, call in (
        ("already", lambda: domains.add("plain")),
        ("plain name", lambda: domains.add("../x")),
        ("prunes some", lambda: domains.add("other", like="pruned", units=own)),
        ("not both", lambda: domains.add("other", units=own, rank=2)),
        ("rank 1000", lambda: domains.add("other", rank=1000)),
        ("never trained", lambda: domains.train("dense", kinds["low"], 1)),
        ("never pruned", lambda: domains.prune("dense", kinds["low"], 0.4)),
        ("unknown domain", lambda: domains.use("plan")),
        ("share", lambda: domains.prune("pruned", kinds["low"], 1.5)),
        ("128", lambda: domains.train("pruned", kinds["low"] + 200, 1)),
    ):
        with pytest.raises(InputError, match=message):
            call()
        assert domains.used == "regrown"
    after = remembered(domains)
    assert all(
        after[name][0] == digest and torch.equal(after[name][1], loss) for name, (digest, loss) in before.items()
    )
    with torch.no_grad():
        next(domains.model.parameters()).add_(1)
    with pytest.raises(InputError, match="weights changed"):
        domains.use("plain")


def test_a_rank_is_found_for_a_size() -> None:
    domains = Domains(wrapped())
    rank = rank_of_size(domains.model, 5000)
    domains.add("rows", rank=rank)
    numbers = sum(down.numel() + up.numel() for down, up in domains["rows"].low_rank.values())
    assert abs(numbers - 5000) <= numbers / rank

"""Routed texts: each runs as alone, with and without a cache, masked or compacted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from plasticity_env import InputError
from plasticity_env.dynamic import NearestTexts, RoutedModel, StructureBank, cluster_bank
from tests.conftest import build, but
from tests.plasticity_env.dynamic.test_structures import bank_of, texts

LENGTHS = (12, 9, 4)
WINDOWED = ("exaone4", "gemma2", "gemma3", "gpt_oss", "mistral", "phi3", "starcoder2")


def padded(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.zeros_like(ids)
    for row, length in enumerate(LENGTHS):
        mask[row, -length:] = 1
    return ids * mask, mask


def routed(architecture: str, **options: Any) -> RoutedModel:
    options = {"prefix_tokens": 5, "prefix_structure": 0, **options}
    return RoutedModel(bank_of(architecture, shares=(0.5,)), **options)


CHOSEN = torch.tensor([1, 3, 2])


def test_the_prefix_runs_dense_and_the_rest_under_the_choice(architecture: str, ids: torch.Tensor) -> None:
    model = routed(architecture)
    with torch.no_grad():
        dense = model.model.model(input_ids=ids).logits
    found = model(ids, structures=CHOSEN)
    assert torch.allclose(found[:, :5], dense[:, :5], rtol=1e-6, atol=1e-8)
    assert float((found[:, 5:] - dense[:, 5:]).abs().max()) > 1e-3
    assert torch.equal(model(ids, structures=torch.zeros(3, dtype=torch.long)), dense)
    assert model.last is not None
    assert model.last.structures.tolist() == [0, 0, 0]


@but(*WINDOWED)
def test_a_padded_batch_is_each_request_alone(architecture: str, ids: torch.Tensor) -> None:
    model = routed(architecture)
    ids, mask = padded(ids)
    together = model(ids, mask, CHOSEN)
    options: dict[str, Any] = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    several = model.generate(ids, mask, structures=CHOSEN, **options)
    uncached = model.generate(ids, mask, structures=CHOSEN, use_cache=False, **options)
    compacted = model.generate(ids, mask, structures=CHOSEN, compacted=True, **options)
    for row, length in enumerate(LENGTHS):
        mine = ids[row : row + 1, -length:], None, CHOSEN[row : row + 1]
        alone = model(*mine)[0]
        assert torch.allclose(together[row, -length:], alone, rtol=1e-5, atol=1e-5 * float(alone.abs().max()))
        expected = model.generate(mine[0], structures=mine[2], **options)[0, length:]
        for found in (several, uncached, compacted):
            assert torch.equal(found[row, ids.shape[1] :], expected)


def test_logits_agree_with_and_without_a_cache(architecture: str, ids: torch.Tensor) -> None:
    model = routed(architecture)
    options: dict[str, Any] = {
        "max_new_tokens": 4,
        "min_new_tokens": 4,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
        "structures": CHOSEN,
    }
    one, other = (model.generate(ids, use_cache=cache, **options) for cache in (True, False))
    assert torch.equal(one.sequences, other.sequences)
    assert one.sequences.shape == (3, 16)
    for mine, theirs in zip(one.logits, other.logits, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-4)
    whole = model(one.sequences[:, :-1], structures=CHOSEN)
    assert torch.allclose(whole[:, -1], one.logits[-1].to(whole), rtol=1e-4, atol=1e-4)


def test_mixed_lengths_must_fit_a_sliding_window(ids: torch.Tensor) -> None:
    model = routed("mistral")
    ids, mask = padded(ids)
    with pytest.raises(InputError, match="sliding window of 6"):
        model.generate(ids, mask, structures=CHOSEN, max_new_tokens=2)


def test_beams_and_samples_keep_their_requests(ids: torch.Tensor) -> None:
    model = routed("llama")
    ids, mask = padded(ids)
    options: dict[str, Any] = {"max_new_tokens": 4, "structures": CHOSEN, "pad_token_id": 0}
    beams = model.generate(ids, mask, num_beams=3, do_sample=False, **options)
    alone = model.generate(ids[1:2, -9:], num_beams=3, do_sample=False, **{**options, "structures": CHOSEN[1:2]})
    assert torch.equal(beams[1, 12:], alone[0, 9:])
    torch.manual_seed(0)
    samples = model.generate(ids, mask, num_return_sequences=2, do_sample=True, **options)
    assert samples.shape[0] == 6
    assert torch.equal(samples[0, :12], samples[1, :12])


def test_the_router_tells_texts_apart() -> None:
    bank = bank_of("llama", shares=(0.5,))
    model, right = RoutedModel(bank, prefix_tokens=6), 0
    assert bank[model.prefix_structure].name == "mixture@0.5"
    for label, ids in texts(12).items():  # those that it was fitted on, whose prefixes are a little longer there
        picked = NearestTexts(bank, under="mixture@0.5").pick(model.read_prefix(ids))
        right += int((picked == bank.find(label, 0.5)).sum())
        model.generate(ids[:2], max_new_tokens=3)
        assert model.last is not None
        assert torch.equal(model.last.structures, picked[:2])
        assert model.last.prefix.tolist() == [6, 6]
        assert 0 < model.last.flops_kept < 1
    assert right >= 18  # of 24


def test_texts_of_no_kind_go_to_the_mixture() -> None:
    bank = bank_of("llama", shares=(0.5,))
    model, mixture = RoutedModel(bank, prefix_tokens=6, prefix_structure=0), bank.index("mixture@0.5")
    known = model.read_prefix(torch.cat(list(texts(12).values())))
    near = NearestTexts(bank, false_alarms=0.05)
    far = replace(known, pooled=known.pooled + 40 * known.pooled.std())
    assert 0 < near.limit < float("inf")
    assert (near.pick(far) == mixture).all()
    assert int((near.pick(known) == mixture).sum()) <= 6
    assert NearestTexts(bank, false_alarms=0.5).limit < near.limit
    assert (NearestTexts(bank).pick(far) != mixture).all()
    few = StructureBank(bank.model, list(bank)[1:], {label: rows[:3] for label, rows in bank.prefixes.items()})
    with pytest.raises(InputError, match="at least 8 prefixes"):
        NearestTexts(few, false_alarms=0.05)
    with pytest.raises(InputError, match="no structure of 'mixture'"):
        NearestTexts(StructureBank(bank.model, list(bank)[1:-1], bank.prefixes), false_alarms=0.05)
    with pytest.raises(InputError, match="false_alarms"):
        NearestTexts(bank, false_alarms=1.5)


def test_a_long_generation_may_switch(ids: torch.Tensor) -> None:
    class InTurn:
        calls = 0

        def pick(self, view: Any) -> torch.Tensor:
            self.calls += 1
            assert torch.isfinite(view.features).all()
            assert len(view) == 3
            return torch.full((3,), self.calls % 3)

    model = RoutedModel(bank_of("llama", shares=(0.5,)), InTurn(), prefix_tokens=4, switch_every=3)
    options: dict[str, Any] = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    model.generate(ids, **options)
    assert model.router.calls == 1 + 2  # the last of eight tokens is never run
    once = RoutedModel(bank_of("llama", shares=(0.5,)), InTurn(), prefix_tokens=4)
    once.generate(ids, **options)
    assert once.router.calls == 1
    assert model.last is not None
    assert once.last is not None
    assert model.last.flops_kept != once.last.flops_kept
    for bad in ({"num_beams": 2}, {"compacted": True}):
        with pytest.raises(InputError, match="switch_every"):
            model.generate(ids, **options, **bad)


def test_another_prefix_structure_counts_all_keys(ids: torch.Tensor) -> None:
    dense, pruned = routed("llama"), routed("llama", prefix_structure=None)
    for model in (dense, pruned):
        model(ids, structures=CHOSEN)
    assert dense.last is not None
    assert pruned.last is not None
    assert pruned.last.flops_kept < dense.last.flops_kept


def test_the_prefix_may_run_under_the_mixture(ids: torch.Tensor) -> None:
    bank = bank_of("llama", shares=(0.5,))
    model, number = RoutedModel(bank, prefix_tokens=5), bank.index("mixture@0.5")
    found = model(ids, structures=CHOSEN)
    everywhere = RoutedModel(bank, prefix_tokens=5)(ids, structures=torch.full((3,), number))
    assert torch.allclose(found[:, :5], everywhere[:, :5], rtol=1e-6, atol=1e-8)
    options: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "structures": CHOSEN}
    masked = model.generate(ids, **options)
    assert torch.equal(masked, model.generate(ids, use_cache=False, **options))
    assert torch.equal(masked, model.generate(ids, compacted=True, **options))
    plain = StructureBank(bank.model, list(bank)[1:], bank.prefixes)
    assert RoutedModel(plain).prefix_structure == 0
    assert RoutedModel(bank, NearestTexts(bank)).prefix_structure == 0
    assert RoutedModel(bank, NearestTexts(bank, under=number)).prefix_structure == number
    with pytest.raises(InputError, match=r"is 'mixture@0\.5', but this router knows prefixes that ran under 'dense'"):
        RoutedModel(bank, NearestTexts(bank), prefix_structure="mixture@0.5")
    with pytest.raises(InputError, match=r"no prefixes that ran under 'mixture@0\.5'"):
        RoutedModel(plain, prefix_structure="mixture@0.5")


def test_bad_requests_are_refused(ids: torch.Tensor) -> None:
    model = routed("llama")
    _, mask = padded(ids)
    cases: list[tuple[str, dict[str, Any]]] = [
        ("padded on the left", {"attention_mask": mask.flip(1)}),
        ("of one shape", {"attention_mask": mask[:, 1:]}),
        ("one a request", {"structures": torch.tensor([1])}),
        ("does not exist", {"structures": torch.tensor([1, 2, 9])}),
        ("makes its own KV cache", {"past_key_values": None}),
        ("the prefix's own cache", {"compacted": True, "num_beams": 2}),
    ]
    for match, options in cases:
        with pytest.raises(InputError, match=match):
            model.generate(ids, max_new_tokens=2, **options)
    with pytest.raises(InputError, match="at least two tokens"):
        model.generate(ids[:, :1])
    with pytest.raises(InputError, match="prefix_tokens"):
        RoutedModel(model.bank, prefix_tokens=0)
    with pytest.raises(InputError, match="say which"):
        RoutedModel(bank_of("llama"))
    model.model.prune(torch.eye(2, 6, dtype=torch.bool))
    with pytest.raises(InputError, match="make_dense"):
        model(ids)


def test_texts_without_labels_find_their_clusters() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'plasticity-env[dynamic]'")
    from plasticity_env import PlasticModel

    kinds = texts(16)
    model = PlasticModel(build("llama").double())
    bank = cluster_bank(model, torch.cat(list(kinds.values())), (0.5,), clusters=(2,), rounds=1, prefix_tokens=6)
    assert bank.labels[-1] == "mixture"
    assert set(bank.labels[:-1]) <= {"cluster0", "cluster1"}
    assert all(structure.share == 0.5 for structure in list(bank)[1:])
    assert sum(map(len, bank.prefixes.values())) == 32  # those that were held out among them
    with pytest.raises(InputError, match="too few"):
        cluster_bank(model, kinds["low"], (0.5,), clusters=(8,))

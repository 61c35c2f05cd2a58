"""The bank and the router that come with the model of four kinds of text."""

from __future__ import annotations

import pytest
import torch

from plasticity_env import InputError, load_model, load_text
from plasticity_env.controllers.routers.learned_router import LearnedRouter
from plasticity_env.data.mixed import MIXED_KINDS
from plasticity_env.dynamic import NearestTexts, PrefixReader, StructureBank, embedded_bank
from plasticity_env.dynamic.embedded_bank import BANKS
from plasticity_env.dynamic.route_table import routed_losses
from plasticity_env.model.loading import LoadedModel

MODEL = "mixed-llama-4x8"
BLOCKS = 4


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model(MODEL)


@pytest.fixture(scope="module")
def bank(loaded: LoadedModel) -> StructureBank:
    return embedded_bank(MODEL, loaded.model)[0]


@pytest.fixture(scope="module")
def texts(loaded: LoadedModel) -> torch.Tensor:
    """(4 BLOCKS, 128) of text that neither bank nor router was fitted on, kind by kind."""
    return torch.cat(
        [
            load_text(f"mixed:{kind}", loaded.tokenizer, block_size=128).drawn("reward", BLOCKS, 0)
            for kind in MIXED_KINDS
        ]
    )


def test_it_has_a_structure_of_every_kind_and_share(bank: StructureBank) -> None:
    assert bank.labels == [*MIXED_KINDS, "mixture"]
    assert bank.shares == [0.3, 0.5]
    assert len(bank) == 1 + 2 * 5
    assert set(bank.prefixes) == set(MIXED_KINDS)


def test_the_first_tokens_tell_the_kind(bank: StructureBank, texts: torch.Tensor) -> None:
    view = PrefixReader(bank.model).read(texts[:, :32])
    picked = [bank[number].label for number in NearestTexts(bank, 0.5).pick(view).tolist()]
    assert picked == [kind for kind in MIXED_KINDS for _ in range(BLOCKS)]


def test_own_structures_lose_less_than_one_for_all(bank: StructureBank, texts: torch.Tensor) -> None:
    """Half of the heads."""
    own = torch.tensor([bank.find(kind, 0.5) for kind in MIXED_KINDS]).repeat_interleave(BLOCKS)
    mixture = torch.full_like(own, bank.find("mixture", 0.5))
    dense, for_all = (routed_losses(bank, texts, number, 32) for number in (0, int(mixture[0])))
    of_own = torch.cat([routed_losses(bank, texts[own == n], int(n), 32) for n in own.unique_consecutive()])
    assert (of_own - dense).mean() < 0.6 * (for_all - dense).mean()


def test_the_learned_router_picks_structures_of_the_texts_kind(bank: StructureBank, texts: torch.Tensor) -> None:
    router = LearnedRouter.load(embedded_bank(MODEL, bank.model)[1], bank=bank)
    picked = router.pick(PrefixReader(bank.model).read(texts[:, :32])).tolist()
    kinds = [kind for kind in MIXED_KINDS for _ in range(BLOCKS)]
    assert sum(bank[number].label == kind for number, kind in zip(picked, kinds, strict=True)) >= 12


def test_bank_and_router_are_small() -> None:
    assert sum(path.stat().st_size for path in BANKS.rglob("*") if path.is_file()) < 400_000


def test_a_model_without_a_bank_names_those_that_have_one(bank: StructureBank) -> None:
    with pytest.raises(InputError, match=MODEL):
        embedded_bank("bard-gpt2-4x4", bank.model)
    with pytest.raises(InputError, match="other weights"):
        embedded_bank(MODEL, load_model("bard-llama-4x8").model)

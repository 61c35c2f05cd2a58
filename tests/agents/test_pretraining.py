"""The embedded models are what their cards say, and pretraining can be killed and resumed without a trace."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from plasticity_env.agents.pretraining.architectures import POOL, ZOO, Shape, ZooModel, build_model, find_model
from plasticity_env.agents.pretraining.cards import Card
from plasticity_env.agents.pretraining.corpora import CORPORA
from plasticity_env.agents.pretraining.corpus import (
    SEPARATOR,
    SPLITS,
    build_texts,
    clean,
    read_split,
    sha256,
)
from plasticity_env.agents.pretraining.head_values import ablation_deltas
from plasticity_env.agents.pretraining.muon import orthogonalize
from plasticity_env.agents.pretraining.pretrain import latest_checkpoint, save_checkpoint, train
from plasticity_env.agents.pretraining.recipe import Recipe, Stage, batch_at
from plasticity_env.agents.pretraining.vocabulary import encode, pack
from plasticity_env.common.files import ZOO_FOLDER

BLOCK = 256
ASSET_BUDGET = 16_000_000
ABLATION_STD_FLOOR = 1e-3
"""Nats per token; heads of an untrained model of these shapes differ by about 3e-4."""

names = pytest.mark.parametrize("name", list(ZOO))
QUICK = ("bard-gpt2-4x4", "bard-llama-4x8")
"""The smallest of each family that is trained on; the others read the test split in the slow tests."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Run these small models on one thread, and leave the thread count as it was."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def folder_of(name: str) -> Path:
    """Where the package keeps this model."""
    return ZOO_FOLDER / "models" / name


def load(name: str) -> PreTrainedModel:
    """The model in float32."""
    return AutoModelForCausalLM.from_pretrained(folder_of(name), dtype=torch.float32).eval()


def mean_nll(model: PreTrainedModel, blocks: torch.Tensor) -> float:
    """Nats per token by the model's own loss, block by block (the cards use a summed cross-entropy)."""
    with torch.no_grad():
        losses = [float(model(rows, labels=rows).loss) * len(rows) for rows in blocks.split(8)]
    return sum(losses) / len(blocks)


@lru_cache
def split_blocks(corpus: str) -> torch.Tensor:
    """(n, BLOCK) tokens of the test split, of which nothing is lost; all models of a corpus share the tokenizer (see below)."""
    name = next(spec.name for spec in ZOO.values() if spec.corpus == corpus)
    tokenizer, blocks = AutoTokenizer.from_pretrained(folder_of(name)), []
    for text in CORPORA[corpus].read("test", ZOO_FOLDER / CORPORA[corpus].folder, Path()).values():
        ids = tokenizer(text, verbose=False)["input_ids"]
        assert tokenizer.decode(ids) == text
        blocks.append(torch.tensor(ids[: len(ids) // BLOCK * BLOCK]).view(-1, BLOCK))
    return torch.cat(blocks)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ZOO]
)
def test_perplexity_on_the_test_split_is_the_cards(name: str) -> None:
    """Slow: the card's figure is over the whole split, 0.16 million tokens or more, and so is this one."""
    card, blocks = Card.load(folder_of(name)), split_blocks(find_model(name).corpus)
    tokenizer = AutoTokenizer.from_pretrained(folder_of(name))
    nll = mean_nll(load(name), blocks)
    assert card.test.tokens == len(blocks) * (BLOCK - 1)
    assert math.exp(nll) == pytest.approx(card.test.perplexity, rel=1e-3)
    scored = sum(len(tokenizer.decode(row[1:])) for row in blocks)
    assert nll * card.test.tokens / math.log(2) / scored == pytest.approx(card.test.bits_per_byte, rel=1e-3)


@names
def test_folder_matches_its_card(name: str) -> None:
    card, spec = Card.load(folder_of(name)), find_model(name)
    config = json.loads((folder_of(name) / "config.json").read_text(encoding="utf-8"))
    assert card.sha256 == sha256((folder_of(name) / "model.safetensors").read_bytes())
    assert card.held_out == spec.held_out == (spec.family == "gpt_neox")
    assert config["model_type"] == spec.family
    assert (card.layers, card.heads, card.kv_heads) == (
        spec.shape.layers,
        spec.shape.heads,
        spec.shape.kv_heads,
    )
    assert (folder_of(name) / "README.md").read_text(encoding="utf-8") == card.readme()
    weights = load_file(folder_of(name) / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float16}


@names
def test_heads_differ(name: str) -> None:
    deltas = torch.tensor(Card.load(folder_of(name)).ablation.deltas)
    spec = find_model(name)
    assert deltas.shape == (spec.shape.layers, spec.shape.heads)
    assert float(deltas.std()) > ABLATION_STD_FLOOR


@pytest.mark.parametrize(
    ("name", "output_weight", "dim"),
    [
        ("bard-gpt2-4x4", "transformer.h.1.attn.c_proj.weight", 0),
        ("bard-llama-4x8", "model.layers.1.self_attn.o_proj.weight", 1),
    ],
)
def test_head_delta_equals_zeroed_output_rows(name: str, output_weight: str, dim: int) -> None:
    """Slow: as many blocks as the card's figure, twice."""
    card, model = Card.load(folder_of(name)), load(name)
    text = read_split(card.ablation.split)[: 8 * card.ablation.block_length * card.ablation.blocks]  # more than enough
    tokens = encode(AutoTokenizer.from_pretrained(folder_of(name)), text)
    blocks = pack(tokens, card.ablation.block_length)[: card.ablation.blocks]
    assert len(blocks) == card.ablation.blocks
    intact = mean_nll(model, blocks)
    head = max(range(card.heads), key=lambda h: card.ablation.deltas[1][h])
    with torch.no_grad():
        model.get_parameter(output_weight).narrow(dim, head * card.head_dim, card.head_dim).zero_()
    assert mean_nll(model, blocks) - intact == pytest.approx(card.ablation.deltas[1][head], rel=1e-2, abs=1e-5)


def test_trained_well_beats_trained_naively() -> None:
    card = Card.load(folder_of("bard-gpt2-4x4"))
    assert card.naive is not None
    assert card.test.perplexity < 0.8 * card.naive.test.perplexity


@pytest.mark.parametrize("corpus", list(CORPORA))
def test_all_models_of_a_corpus_share_the_tokenizer(corpus: str) -> None:
    names = [spec.name for spec in ZOO.values() if spec.corpus == corpus]
    files = {(folder_of(name) / "tokenizer.json").read_bytes() for name in names}
    assert len(files) == 1
    tokenizer = AutoTokenizer.from_pretrained(folder_of(names[0]))
    assert len(tokenizer) == 1024
    assert tokenizer.eos_token == SEPARATOR
    assert tokenizer.decode(tokenizer("naïve 雪\t")["input_ids"]) == "naïve 雪\t"


def test_splits_are_disjoint_by_play_and_as_recorded() -> None:
    record = json.loads((ZOO_FOLDER / "text" / "plays.json").read_text(encoding="utf-8"))
    stems = [work["stem"] for split in record["splits"].values() for work in split["works"]]
    assert len(stems) == len(set(stems)) == sum(len(works) for works in SPLITS.values())
    texts: dict[str, str] = {}
    for split, works in SPLITS.items():
        text = read_split(split)
        assert sha256(text.encode()) == record["splits"][split]["sha256"]
        parts = text.split(SEPARATOR)
        for work, part, entry in zip(works, parts, record["splits"][split]["works"], strict=True):
            assert (work.stem, sha256(part.encode())) == (entry["stem"], entry["sha256"])
        texts[split] = text
    test_lines = {line for line in texts["test"].splitlines() if len(line) > 30}
    shared = test_lines & set(texts["train"].splitlines())
    assert len(shared) < 0.005 * len(test_lines)
    genres = {work.genre for work in SPLITS["test"]}
    assert genres == {"comedy", "history", "tragedy"}


def test_assets_fit_the_budget() -> None:
    total = sum(path.stat().st_size for path in ZOO_FOLDER.rglob("*") if path.is_file())
    assert total < ASSET_BUDGET


def test_clean_keeps_the_verse_and_drops_the_rest() -> None:
    assert clean("TITLE  \r\n\r\n\r\n\r\nA line,\n  indented.\n\nTHE END") == "TITLE\n\nA line,\n  indented.\n"


def test_missing_texts_are_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--source"):
        build_texts(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("name", list(POOL))
def test_the_further_models_are_what_their_names_say(name: str) -> None:
    spec = find_model(name)
    model = build_model(spec, seed=0)
    assert name.split("-")[1:] == [spec.family, f"{spec.shape.layers}x{spec.shape.heads}"]
    assert (model.config.num_hidden_layers, model.config.num_attention_heads) == (spec.shape.layers, spec.shape.heads)
    assert spec.shape.heads % spec.shape.kv_heads == 0
    assert name not in ZOO


def test_unknown_model_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="bard-gpt2-4x4"):
        find_model("bard-gpt3")


@pytest.mark.parametrize("shape", [(8, 8), (8, 24)])
def test_orthogonalize_brings_singular_values_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(3, *shape), steps=8))
    assert values.min() > 0.5
    assert values.max() < 1.5


TINY = {
    "gpt2": ZooModel("tiny-gpt2", "gpt2", Shape(1, 2, 2, 16, 32)),
    "llama": ZooModel("tiny-llama", "llama", Shape(1, 4, 2, 16, 32)),
}
SHORT = Recipe(tokens_per_step=64, stages=(Stage(0.5, 16), Stage(0.5, 32)))
STEPS = 10


def test_every_block_comes_once_per_pass() -> None:
    tokens = torch.arange(1000)
    recipe = replace(SHORT, stages=(Stage(1.0, 16),))
    blocks = (1000 - 16) // 16
    steps = math.ceil(blocks / 4)
    rows = torch.cat([batch_at(tokens, recipe, step, steps, seed=3) for step in range(steps)])[:blocks]
    assert rows.shape == (blocks, 17)
    inputs = rows[:, :-1].flatten()
    assert inputs.unique().numel() == inputs.numel()
    assert int(inputs.max() - inputs.min()) + 1 == inputs.numel()


@pytest.mark.parametrize("family", list(TINY))
def test_interrupted_and_resumed_equals_uninterrupted(family: str, tmp_path: Path) -> None:
    spec = TINY[family]
    tokens = torch.randint(1024, (2000,), generator=torch.Generator().manual_seed(0))
    whole = train(spec, SHORT, tokens, STEPS, seed=7, checkpoints=tmp_path / "whole")
    train(spec, SHORT, tokens, STEPS, seed=7, checkpoints=tmp_path / "parts", stop_after=4)
    torch.manual_seed(123)  # the state of the global generator must not matter
    resumed = train(spec, SHORT, tokens, 999, seed=7, checkpoints=tmp_path / "parts", resume=True)
    assert resumed.step == whole.step == STEPS
    for (name, a), (_, b) in zip(whole.model.named_parameters(), resumed.model.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_a_kill_while_saving_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = torch.randint(1024, (2000,), generator=torch.Generator().manual_seed(0))
    trained = train(TINY["gpt2"], SHORT, tokens, STEPS, seed=7, checkpoints=tmp_path, stop_after=2)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, trained.model, [], 3, STEPS, 1.0, seed=7)
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found.name == "step-00000002"


def test_resume_with_another_seed_is_refused(tmp_path: Path) -> None:
    tokens = torch.randint(1024, (2000,), generator=torch.Generator().manual_seed(0))
    train(TINY["gpt2"], SHORT, tokens, STEPS, seed=7, checkpoints=tmp_path, stop_after=1)
    with pytest.raises(ValueError, match="--seed 7"):
        train(TINY["gpt2"], SHORT, tokens, STEPS, seed=8, checkpoints=tmp_path, resume=True)


def test_ablation_deltas_leave_the_model_as_it_was(tmp_path: Path) -> None:
    spec = TINY["llama"]
    tokens = torch.randint(1024, (2000,), generator=torch.Generator().manual_seed(0))
    model = train(spec, SHORT, tokens, 2, seed=7, checkpoints=tmp_path).model
    blocks = pack(tokens, 16)[:4]
    before = mean_nll(model.eval(), blocks)
    assert ablation_deltas(model, spec, blocks).abs().min() > 0
    assert mean_nll(model, blocks) == before

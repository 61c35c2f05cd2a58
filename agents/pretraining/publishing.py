"""From a trained model to a folder of the zoo: Hugging Face files, float16 weights, measured card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from plasticity_env.agents.pretraining.architectures import FAMILIES, ZooModel
from plasticity_env.agents.pretraining.cards import Ablation, Card, Comparison, Training
from plasticity_env.agents.pretraining.corpora import CORPORA
from plasticity_env.agents.pretraining.corpus import SplitName, sha256
from plasticity_env.agents.pretraining.head_values import ablation_deltas, score, together
from plasticity_env.agents.pretraining.pretrain import Trained
from plasticity_env.agents.pretraining.recipe import Recipe
from plasticity_env.agents.pretraining.vocabulary import bytes_per_token
from plasticity_env.common.files import new_folder

BLOCK_LENGTH: Final = 256
ABLATION_SPLIT: Final[SplitName] = "reward"


def save_folder(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a standard Hugging Face folder with float16 weights, through a temporary name: never half a model."""
    model.generation_config = GenerationConfig(bos_token_id=0, eos_token_id=0, pad_token_id=0, do_sample=True)
    with new_folder(folder, replace=True) as temporary:
        model.cpu().half().save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        for path in temporary.iterdir():
            path.chmod(0o644)


def load_model(folder: Path) -> PreTrainedModel:
    """The stored model in float32, ready to evaluate."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False
    )
    return model.eval()


def publish(
    trained: Trained,
    tokenizer: PreTrainedTokenizerFast,
    spec: ZooModel,
    recipe: Recipe,
    folder: Path,
    texts: Path,
    downloads: Path,
    *,
    train_tokens: int,
    seed: int,
    threads: int,
    device: str,
) -> Card:
    """Store a trained model, measure what was stored (not what was in memory) and write its card.

    Args:
        trained: the finished run.
        tokenizer: the zoo's tokenizer.
        spec: the model's entry in the zoo.
        recipe: how it was trained.
        folder: where the model goes, replaced if it exists.
        texts: folder of the corpus.
        downloads: folder of the files that it was made of.
        train_tokens: N, tokens of the train split; gives the epochs.
        seed: of the run.
        threads: CPU threads of the run.
        device: where it was trained.

    Returns:
        The card, also written into `folder`.
    """
    save_folder(trained.model, tokenizer, folder)
    model = load_model(folder)
    corpus, shape = CORPORA[spec.corpus], spec.shape
    reward = corpus.blocks(ABLATION_SPLIT, tokenizer, BLOCK_LENGTH, texts, downloads)
    blocks = torch.cat([ids[: corpus.ablated] for ids in reward.values()])
    test, lengths = corpus.blocks("test", tokenizer, BLOCK_LENGTH, texts, downloads), bytes_per_token(tokenizer)
    kinds = {kind: score(model, ids, lengths) for kind, ids in test.items()}
    card = Card(
        name=spec.name,
        architecture=FAMILIES[spec.family].title,
        held_out=spec.held_out,
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        width=shape.width,
        inner=shape.inner,
        parameters=sum(p.numel() for p in model.parameters()),
        vocabulary=len(tokenizer),
        positions=model.config.max_position_embeddings,
        training=Training(
            recipe=recipe.name,
            seed=seed,
            steps=trained.step,
            tokens=trained.tokens,
            epochs=round(trained.tokens / train_tokens, 4),
            seconds=round(trained.seconds, 1),
            threads=threads,
            device=device,
            torch=torch.__version__,
            transformers=transformers.__version__,
        ),
        test=together(list(kinds.values())),
        ablation=Ablation.of(ablation_deltas(model, spec, blocks), ABLATION_SPLIT, blocks.shape[0], blocks.shape[1]),
        sha256=sha256((folder / "model.safetensors").read_bytes()),
        licence=f"Weights: as the package. Text: {corpus.licence}",
        corpus=spec.corpus,
        kinds=kinds if len(kinds) > 1 else {},
    )
    card.save(folder)
    return card


def add_comparison(folder: Path, naive: Path) -> Card:
    """Record the naive run's card (folder `naive`) in the card of the same model, stored in `folder`."""
    card, other = Card.load(folder), Card.load(naive)
    training = other.training
    comparison = Comparison(
        training.recipe, training.steps, training.tokens, training.seconds, training.threads, other.test
    )
    card = replace(card, naive=comparison)
    card.save(folder)
    return card

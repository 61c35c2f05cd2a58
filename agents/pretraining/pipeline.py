"""One call that pretrains a model of the zoo and stores it: texts, tokenizer, training, card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from plasticity_env.agents.pretraining.architectures import ZooModel
from plasticity_env.agents.pretraining.cards import CARD, Card
from plasticity_env.agents.pretraining.corpora import CORPORA, Corpus
from plasticity_env.agents.pretraining.display import Display
from plasticity_env.agents.pretraining.pretrain import steps_in, train
from plasticity_env.agents.pretraining.publishing import add_comparison, publish
from plasticity_env.agents.pretraining.recipe import NAIVE, Recipe
from plasticity_env.common.at_work import at_work_in, at_work_on


@dataclass(frozen=True)
class Run:
    """Where a pretraining run reads and writes, and how long it is: `tokens` if given, else `minutes`."""

    source: Path | None
    output: Path
    cache: Path
    tokens: int | None
    minutes: float
    seed: int
    resume: bool
    device: str
    threads: int


def prepare_texts(corpus: Corpus, run: Run) -> Path:
    """The folder of the corpus under the output folder, built from the source texts if need be."""
    texts = run.output / corpus.folder
    if run.source is not None or not (texts / corpus.contents).is_file():
        corpus.build(run.source, run.cache, texts)
    return texts


def pretrain(spec: ZooModel, recipe: Recipe, run: Run) -> Card:
    """Pretrain one model and store it under `<output>/models/<name>`, the naive comparator under `<output>/naive`.

    When both are there, the model's card also tells of the naive run.

    Raises:
        InputError: Another process is at work on this model.
        OSError: Nothing can be written; said before anything is trained.
    """
    group = "naive" if recipe == NAIVE else "models"
    checkpoints, output = run.cache / "checkpoints" / group / spec.name, run.output / group / spec.name
    with at_work_in(checkpoints), at_work_on(output):
        return _pretrain(spec, recipe, run, checkpoints, output)


def _pretrain(spec: ZooModel, recipe: Recipe, run: Run, checkpoints: Path, output: Path) -> Card:
    torch.set_num_threads(run.threads)
    corpus = CORPORA[spec.corpus]
    texts, downloads = prepare_texts(corpus, run), run.source or run.cache
    tokenizer = corpus.tokenizer(texts, downloads)
    tokens = corpus.train_tokens(tokenizer, texts, downloads)
    if run.tokens is not None:
        steps = max(1, run.tokens // recipe.tokens_per_step)
    else:
        steps = steps_in(run.minutes, spec, recipe, tokens, run.device)
    with Display(spec.name) as display:
        trained = train(
            spec,
            recipe,
            tokens,
            steps,
            run.seed,
            checkpoints,
            resume=run.resume,
            device=run.device,
            report=display,
        )
    card = publish(
        trained,
        tokenizer,
        spec,
        recipe,
        output,
        texts,
        downloads,
        train_tokens=tokens.numel(),
        seed=run.seed,
        threads=run.threads,
        device=run.device,
    )
    model, naive = run.output / "models" / spec.name, run.output / "naive" / spec.name
    if (model / CARD).is_file() and (naive / CARD).is_file():
        add_comparison(model, naive)
    return card

"""prune_heads.py, expand_heads.py and fine_tune_model.py hand one checkpoint on, as a user types them."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

import plasticity_env
from plasticity_env import InputError, load_model, load_plastic, save_plastic
from plasticity_env.model.checkpoints import load_checkpoint
from plasticity_env.steps.expanding import expand_heads
from plasticity_env.steps.file_pruning import prune_heads
from plasticity_env.steps.fine_tuning import _as_before, _refuse_other, fine_tune
from plasticity_env.steps.step_arguments import ExpandConfig, FineTuneConfig, PruneConfig, StepText
from plasticity_env.training import HeadLRManager
from tests.plasticity_env.training.rows import GPT2, LLAMA, head_rows, weights
from tests.scripts.interrupting import hearing_ctrl_c

SMALL = ["--dataset", "text.txt", "--max_length", "16", "--calibration_blocks", "16", "--test_blocks", "8"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A short text: the scripts would tokenise the whole embedded one."""
    whole = Path(plasticity_env.__file__).parent / "zoo" / "text" / "test.txt.gz"
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(gzip.decompress(whole.read_bytes()).decode()[:40_000], encoding="utf-8")
    return path


@pytest.fixture
def there(tmp_path, corpus, monkeypatch):
    (tmp_path / "text.txt").write_bytes(corpus.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def step_text(**more):
    return StepText("text.txt", max_length=16, calibration_blocks=16, test_blocks=8, **more)


def grown(where, name=GPT2, warmup_steps=6):
    """Prune and expand through files; returns the checkpoint."""
    prune_heads(PruneConfig(name, 0.4, output_path=Path(f"pruned{where}"), text=step_text()))
    path, _ = expand_heads(
        ExpandConfig(
            f"pruned{where}",
            growth_percentage=0.2,
            growth_strategy="balanced",
            warmup_steps=warmup_steps,
            output_path=Path(f"grown{where}"),
            text=step_text(),
        )
    )
    return path


def commands(name, suffix):
    """The three command lines, and where they leave their checkpoints."""
    pruned, expanded, tuned = paths = [f"{word}{suffix}" for word in ("pruned", "expanded", "tuned")]
    prune = f"prune_heads.py --model_name {name} --pruning_level 0.4 --strategy entropy --output_path {pruned}"
    expand = (
        f"expand_heads.py --model_path {pruned} --model_name {name} --growth_percentage 0.125 --initial_scale 0.05 "
        f"--growth_strategy gradient_sensitivity --warmup_steps 20 --output_path {expanded} --max_length 16"
    )
    tune = (
        f"fine_tune_model.py --model_path {expanded} --model_name {name} --learning_rate 1e-3 --new_head_lr_multiplier 4 "
        f"--epochs 1 --max_steps 5 --batch_size 4 --output_path {tuned} --max_length 16"
    )
    return paths, [[*prune.split(), *SMALL], expand.split(), tune.split()]  # later steps read the first one's text


def check_chain(name, paths, said):
    """What three checkpoints in a row must hold."""
    assert " entropy goes first: on calibration text the loss is " in said
    dense = load_model(name).model
    first, second, checkpoint = (
        load_plastic(paths[0], name=name).model,
        load_plastic(paths[1]).model,
        load_checkpoint(paths[2]),
    )
    third, new = checkpoint.loaded.model, second.active & ~first.active
    assert int((~first.active).sum()) == round(0.4 * dense.active.numel())
    assert int(new.sum()) == dense.active.numel() // 8
    assert f"{int(new.sum())} new heads started at 4 times that" in said
    assert torch.allclose(second.scale[new], torch.tensor(0.05))
    assert torch.allclose(third.scale[new], torch.tensor(0.05 + 0.95 * 5 / 20))  # the warm-up went on
    assert torch.equal(third.active, second.active)
    for layer, head in (~third.active).nonzero().tolist():
        for key, at in head_rows(name, layer, head):
            assert torch.equal(weights(third)[key][at], weights(second)[key][at])
    assert [entry["step"] for entry in checkpoint.notes["history"]] == ["prune", "expand", "fine_tune"]
    assert checkpoint.training is None
    assert len(checkpoint.notes["history"][2]["result"]["losses"]) == 5
    return third


@pytest.mark.parametrize(("name", "suffix"), [(GPT2, ".pth"), (LLAMA, "")])
def test_three_scripts_hand_a_checkpoint_on(there, run_here, name, suffix):
    """A file, and a folder that stock transformers reads."""
    paths, lines = commands(name, suffix)
    said = ""
    for path, line in zip(paths, lines, strict=True):
        done = run_here(*line)
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith(f"checkpoint: {path}\n")
        said += done.stdout
    third = check_chain(name, paths, said)
    if not suffix:
        stock = tf.AutoModelForCausalLM.from_pretrained(there / paths[2])
        ids = torch.arange(3, 19)[None]
        assert torch.allclose(stock(input_ids=ids).logits, third(input_ids=ids).logits, atol=1e-4)


@pytest.mark.parametrize("where", [".pth", ""])
def test_new_heads_get_their_multiplier_through_the_file(there, where):
    """Under a multiplier m one AdamW step moves a new head m times as far as under 1, and nothing else differs."""
    grown(where)
    first = load_plastic(f"grown{where}").model
    moved = {}
    for multiplier in (1.0, 4.0):
        fine_tune(
            FineTuneConfig(
                f"grown{where}",
                learning_rate=1e-3,
                new_head_lr_multiplier=multiplier,
                max_steps=1,
                output_path=Path(f"tuned{multiplier:g}{where}"),
                text=step_text(),
            )
        )
        after = weights(load_plastic(f"tuned{multiplier:g}{where}").model)
        moved[multiplier] = {key: after[key] - value for key, value in weights(first).items()}
    new = first.active & ~load_plastic(f"pruned{where}").model.active
    assert int(new.sum()) == 3
    for layer, head in new.nonzero().tolist():
        for key, at in head_rows(GPT2, layer, head):
            assert torch.allclose(moved[4.0][key][at], 4 * moved[1.0][key][at], rtol=0, atol=1e-6), key
            moved[4.0][key][at] = moved[1.0][key][at]
    assert all(torch.equal(moved[4.0][key], value) for key, value in moved[1.0].items())


def test_ages_go_on_where_training_stopped(there):
    """A half-decayed rate stays half decayed in the next file; what was written by hand shows new heads by their warm-up."""
    grown("")
    fine_tune(
        FineTuneConfig("grown", max_steps=2, lr_decay_steps=4, output_path=Path("tuned"), text=step_text(batch_size=2))
    )
    checkpoint = load_checkpoint("tuned")
    model, ages = checkpoint.loaded.model, torch.tensor(checkpoint.notes["head_ages"])
    new = model.scale < 1
    assert (ages[new] == 2).all()
    assert (ages[~new] == -1).all()
    rates = HeadLRManager(model, new_head_multiplier=5.0, decay_steps=4)
    rates.ages = ages
    assert rates.multipliers[new].tolist() == pytest.approx([3.0] * int(new.sum()))
    save_plastic(model, "by_hand", checkpoint.loaded.tokenizer)
    _, said = fine_tune(FineTuneConfig("by_hand", max_steps=1, output_path=Path("again"), text=step_text()))
    assert "3 new heads started at 3 times that" in said


@pytest.mark.slow
def test_an_interrupted_run_goes_on_bit_for_bit(there, capsys):
    """Slow: a process of its own imports torch; 120 steps give Ctrl-C time to arrive, and are taken twice."""
    grown(".pth")
    arguments = ["--learning_rate", "1e-3", "--max_steps", "120", "--batch_size", "2", "--save_steps", "4"]
    more = ["--output_path", "cut.pth", *SMALL]
    command = hearing_ctrl_c("fine_tune_model.py", "--model_path", "grown.pth", *arguments, *more)
    process = subprocess.Popen(command, cwd=there, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200  # importing takes long where many processes do
    while not (there / "cut.pth").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "of 120 steps are kept: --resume goes on from there" in stderr
    assert stderr.endswith("stopped\n")
    cut = load_checkpoint("cut.pth")
    assert 4 <= cut.training["trainer"]["taken"] < 120

    settings = dict(learning_rate=1e-3, max_steps=120, save_steps=1000, text=step_text(batch_size=2))
    with pytest.raises(InputError, match=r"had learning_rate 0.001, not 0.01"):
        fine_tune(FineTuneConfig(resume=True, output_path=Path("cut.pth"), **{**settings, "learning_rate": 1e-2}))
    fine_tune(FineTuneConfig(resume=True, output_path=Path("cut.pth")))
    assert "goes on with" in capsys.readouterr().err
    fine_tune(FineTuneConfig("grown.pth", output_path=Path("whole.pth"), **settings))
    again, whole = load_checkpoint("cut.pth"), load_checkpoint("whole.pth")
    other = weights(whole.loaded.model)
    assert all(torch.equal(value, other[key]) for key, value in weights(again.loaded.model).items())
    results = [found.notes["history"][2]["result"] for found in (again, whole)]
    assert len(results[0]["losses"]) == 120
    assert results[0] == results[1]
    assert len(again.notes["history"]) == 3
    with pytest.raises(InputError, match="no interrupted run"):
        fine_tune(FineTuneConfig(resume=True, output_path=Path("cut.pth"), **settings))


def test_a_run_goes_on_with_the_arguments_that_it_had():
    run = FineTuneConfig("a", learning_rate=1e-3, max_steps=7, text=step_text(batch_size=2))
    kept = json.loads(json.dumps(asdict(run), default=str))
    there = Path("cut.pth")
    assert _as_before(FineTuneConfig(resume=True, output_path=there), kept) == replace(
        run, model_path="", resume=True, output_path=there
    )
    other = FineTuneConfig(resume=True, output_path=there, max_steps=9, text=StepText(max_length=8))
    found = _as_before(other, kept)
    assert (found.max_steps, found.learning_rate, found.text.max_length, found.text.batch_size) == (9, 1e-3, 8, 2)


def test_a_run_of_before_goes_on_with_its_text_as_it_was_split():
    def settings(text: StepText) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(FineTuneConfig("a", text=text)), default=str))

    def of_before(dataset: str | None) -> dict[str, Any]:
        found = settings(step_text())
        kept = {name: value for name, value in found["text"].items() if name != "text_split"}
        return {**found, "text": {**kept, "dataset": dataset}}

    sizes = {"max_length": 16, "calibration_blocks": 16, "test_blocks": 8}
    _refuse_other(of_before("text.txt"), settings(step_text(text_split="leading")))
    _refuse_other(of_before(None), settings(StepText(**sizes)))  # the checkpoint says which text, and how it is split
    with pytest.raises(InputError, match="had text_split 'leading', not 'documents': resume it with the same value"):
        _refuse_other(of_before("text.txt"), settings(step_text()))
    with pytest.raises(InputError, match="had max_length 16, not 32"):
        _refuse_other(of_before(None), settings(StepText(**{**sizes, "max_length": 32})))


def test_pruning_goes_on_from_a_checkpoint_and_distils_from_the_dense_model(there):
    grown("")
    path, said = prune_heads(PruneConfig("grown", 0.5, "magnitude", output_path=Path("more"), text=step_text()))
    assert said[0].startswith("5 of 16 heads pruned by magnitude")  # 6 were, 3 grew back, 8 shall be
    with pytest.raises(InputError, match="8 of 16 heads pruned already"):
        prune_heads(PruneConfig(str(path), 0.25, output_path=Path("fewer"), text=step_text()))
    fine_tune(
        FineTuneConfig(
            "more", max_steps=2, distillation=0.5, mixed_precision=True, output_path=Path("end"), text=step_text()
        )
    )
    assert int(load_plastic("end", name=GPT2).model.active.sum()) == 8


def test_each_step_takes_a_repair_and_both_directions(there):
    for direction in ("high", "low"):
        prune_heads(
            PruneConfig(
                GPT2, 0.25, "entropy", direction, repair="sequential", output_path=Path(direction), text=step_text()
            )
        )
    masks = [load_plastic(direction).model.active for direction in ("high", "low")]
    assert not torch.equal(*masks)
    notes = [load_checkpoint(direction).notes["history"][0]["result"] for direction in ("high", "low")]
    assert [found["direction"] for found in notes] == ["high", "low"]
    assert all(abs(found["unrepaired"]["loss"] - found["after"]["loss"]) > 1e-4 for found in notes)


@pytest.mark.parametrize(
    ("script", "arguments", "sentence"),
    [
        (
            "prune_heads.py",
            ["--model_name", GPT2, "--pruning_level", "1.0", "--output_path", "it"],
            "pruning_level must lie in [0, 1), got 1.0: 0.2 prunes a fifth of all heads",
        ),
        (
            "prune_heads.py",
            ["--model_name", GPT2, "--output_path", "/proc/nope"],
            "No such file or directory: /proc/nope",
        ),
        (
            "expand_heads.py",
            ["--model_path", "text.txt", "--output_path", "it"],
            "no checkpoint of a pruned model at 'text.txt': give a folder with plastic.json, or a .pth file, as save_plastic "
            "writes them",
        ),
        (
            "fine_tune_model.py",
            ["--output_path", "it"],
            "no --model_path: name the checkpoint that prune_heads.py or expand_heads.py wrote",
        ),
    ],
)
def test_bad_input_is_one_sentence_exit_2_and_nothing_is_written(there, run_here, script, arguments, sentence):
    assert run_here(script, *arguments) == (2, "", f"error: {sentence}\n")
    assert [path.name for path in there.iterdir()] == ["text.txt"]


def test_what_cannot_be_used(there):
    (there / "short.txt").write_text("a few words")
    (there / "other").mkdir()
    (there / "other" / "file").write_text("mine")
    torch.save({"a": torch.ones(2)}, there / "foreign.pth")
    grown(".pth")
    out = {"output_path": Path("out"), "text": step_text()}
    for call, words in (
        (lambda: PruneConfig(strategy="fischer"), "did you mean 'fisher'"),
        (lambda: PruneConfig(prune_entropy="up"), "unknown entropy direction 'up'"),
        (lambda: PruneConfig(repair="glue"), "unknown repair"),
        (lambda: ExpandConfig(growth_percentage=0.0), "growth_percentage"),
        (lambda: ExpandConfig(initial_scale=0.0), "initial_scale"),
        (lambda: FineTuneConfig(epochs=0), "epochs must be a whole number of at least 1"),
        (lambda: FineTuneConfig(learning_rate=0.0), r"learning_rate must lie in \(0, 100\]"),
        (lambda: FineTuneConfig(resume=True), "--resume needs the --output_path"),
        (lambda: prune_heads(PruneConfig(GPT2, output_path=Path("other"))), "holds something else"),
        (lambda: prune_heads(PruneConfig(GPT2, output_path=Path("text.txt"))), "is a file"),
        (
            lambda: prune_heads(PruneConfig(GPT2, output_path=Path("out"), text=StepText("short.txt"))),
            "four splits need",
        ),
        (lambda: expand_heads(ExpandConfig(**out)), "no --model_path"),
        (lambda: expand_heads(ExpandConfig("foreign.pth", **out)), "not a checkpoint that save_plastic wrote"),
        (lambda: expand_heads(ExpandConfig("grown.pth", model_name=LLAMA, **out)), "not of 'bard-llama-4x8'"),
        (
            lambda: fine_tune(FineTuneConfig("grown.pth", teacher=LLAMA, distillation=0.5, device="gpu", **out)),
            "device",
        ),
    ):
        with pytest.raises(InputError, match=words):
            call()
    assert not (there / "out").exists()
    prune_heads(PruneConfig(GPT2, 0.0, output_path=Path("dense"), text=step_text()))
    with pytest.raises(InputError, match="no slot to grow a head in"):
        expand_heads(ExpandConfig("dense", **out))
    model = load_plastic("dense").model
    save_plastic(model, "without", name=GPT2)
    with pytest.raises(InputError, match="saved without a tokenizer"):
        fine_tune(FineTuneConfig("without", **out))
    fine_tune(FineTuneConfig("without", model_name=GPT2, max_steps=1, **out))


def test_a_file_of_something_else_is_not_overwritten(tmp_path):
    path = tmp_path / "precious.pth"
    torch.save({"weights": torch.ones(3)}, path)
    before = path.read_bytes()
    with pytest.raises(InputError, match="something else"):
        prune_heads(PruneConfig(model_name="bard-gpt2-4x4", output_path=path))
    assert path.read_bytes() == before


def test_entropy_says_what_the_best_strategy_costs_instead(there):
    config = PruneConfig(GPT2, 0.3, "entropy", output_path=Path("by_entropy"), text=step_text())
    path, said = prune_heads(config)
    other, plain = prune_heads(replace(config, strategy="residual_stepwise", output_path=Path("by_stepwise")))
    told = load_checkpoint(path).notes["history"][-1]["result"]["instead"]
    found = load_checkpoint(other).notes["history"][-1]["result"]["after"]
    assert told["strategy"] == "residual_stepwise"
    assert told["loss"] == pytest.approx(found["loss"], abs=1e-5)
    assert said[-1].startswith(f"--strategy residual_stepwise would give {found['perplexity']:.2f} (")
    assert not any("instead" in line for line in plain)

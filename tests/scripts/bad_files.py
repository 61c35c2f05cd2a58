"""Files and folders that no command can use, and what each of them is."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import torch

from plasticity_env.common.files import ZOO_FOLDER
from plasticity_env.controllers.ann import CONFIG, WEIGHTS, ANNController

MODEL = "bard-gpt2-4x4"
YAML = {
    "null.yaml": "null\n",
    "empty.yaml": "",
    "list.yaml": "- seed\n- 3\n",
    "text.yaml": "seed 3\n",
    "broken.yaml": "seed: [1, 2\n",
    "tag.yaml": "seed: !!python/object/apply:os.system ['touch ran']\n",
    "tab.yaml": "seed:\t- 1\n",
    "unknown.yaml": "sede: 3\n",
    "number_key.yaml": "3: 3\n",
    "none.yaml": "seed: null\n",
    "word.yaml": "seed: three\n",
    "true.yaml": "seed: true\n",
    "half.yaml": "seed: 1.5\n",
    "negative.yaml": "seed: -1\n",
    "nan.yaml": "learning_rate: .nan\n",
    "infinite.yaml": "learning_rate: .inf\n",
    "rate.yaml": "learning_rate: fast\n",
    "settings.yaml": "settings: [1, 2]\n",
    "inside.yaml": "settings: {untis: heads}\n",
    "price.yaml": "flop_price: [1, 2, 3]\n",
    "prices.yaml": "flop_price: [low, high]\n",
    "units.yaml": "held_out_units: {controllers: fisher, units: heads+mlp, mlp_blocks: 7}\n",
    "players.yaml": "compare: {controllers: foo}\n",
    "path.yaml": "output_dir: 5\n",
    "no_path.yaml": "output_dir: ''\n",
    "switch.yaml": "resume: maybe\n",
    "bomb.yaml": "seed: [&a [x, x], "
    + ", ".join(f"&{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    + "]\n",  # 40 million words, were it written out
}
TEXTS = {
    "short.txt": "a few words\n",
    "empty.txt": "",
    "table.csv": "a,b\n1,2\n",
    "empty.jsonl": "",
    "list.jsonl": "[1, 2]\n",
    "other.jsonl": '{"title": "x"}\n',
    "number.jsonl": '{"text": 3}\n',
    "cells.jsonl": '{"model": 3}\n',
    "prose.jsonl": "not one line of ours\n",
    "empty.parquet": "",
    "empty.pth": "",
    "text.pth": "this is no archive\n",
    "text.gguf": "this is no model\n",
    "empty.gguf": "",
    "page.md": "no marks\n",
    "half.md": "<!-- tables: made by scripts/study_adaptive.py -->\n",
}


class Runs:
    """A pickle that would make a folder if it were read."""

    def __reduce__(self) -> object:
        return (exec, ("import os; os.mkdir('ran')",))


def make(folder: Path) -> None:
    """Fill an empty folder."""
    for name, text in {**YAML, **TEXTS}.items():
        (folder / name).write_text(text)
    (folder / "latin.yaml").write_bytes("name: caf\xe9\n".encode("latin-1"))
    (folder / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (folder / "latin.txt").write_bytes("caf\xe9 ".encode("latin-1") * 2000)
    (folder / "folder").mkdir()
    (folder / "folder.pth").mkdir()
    (folder / "full").mkdir()
    (folder / "full" / "mine.txt").write_text("mine\n")
    (folder / "code.pth").write_bytes(pickle.dumps(Runs()))
    torch.save({"weights": torch.ones(3)}, folder / "foreign.pth")
    torch.save([1, 2], folder / "list.pth")
    torch.save(torch.ones(3), folder / "tensor.pth")
    torch.save({"plastic": {"format": 99}}, folder / "newer.pth")
    torch.save({"plastic": [], "weights": {}, "aside": {}, "files": {}}, folder / "shape.pth")
    (folder / "shape_trained").mkdir()
    torch.save([1, 2], folder / "shape_trained" / "checkpoint.pt")
    _models(folder)
    _controllers(folder)
    _runs(folder)


def _models(folder: Path) -> None:
    """Folders that look like models."""
    good = ZOO_FOLDER / "models" / MODEL
    for name, file, content in (
        ("no_weights", "model.safetensors", None),
        ("empty_weights", "model.safetensors", b""),
        ("text_weights", "model.safetensors", b"this is no tensor\n"),
        ("cut_weights", "model.safetensors", (good / "model.safetensors").read_bytes()[:5000]),
        ("empty_config", "config.json", b""),
        ("list_config", "config.json", b"[1, 2]"),
        ("number_config", "config.json", b"3"),
        ("other_config", "config.json", b'{"model_type": "nothing"}'),
        ("latin_config", "config.json", b"\xe9"),
        ("list_tokenizer", "tokenizer.json", b"[1, 2]"),
    ):
        where = folder / name
        where.mkdir()
        for source in good.iterdir():
            if source.name not in (file, "README.md", "card.json") and source.is_file():
                (where / source.name).symlink_to(source)
        if content is not None:
            (where / file).write_bytes(content)
    bin_folder = folder / "code_weights"
    shutil.copytree(folder / "no_weights", bin_folder, symlinks=True)
    (bin_folder / "pytorch_model.bin").write_bytes(pickle.dumps(Runs()))
    for name, said in (("list_plastic", "[1, 2]"), ("empty_plastic", ""), ("null_plastic", "null")):
        (folder / name).mkdir()
        (folder / name / "plastic.json").write_text(said)


def _controllers(folder: Path) -> None:
    """Folders that look like saved controllers; none has digests, but for the one that was changed afterwards."""
    controller = ANNController()
    for name, file, content in (
        ("empty_controller", CONFIG, b""),
        ("list_controller", CONFIG, b"[1, 2]"),
        ("null_controller", CONFIG, b"null"),
        ("newer_controller", CONFIG, b'{"format": 99}'),
        ("shape_controller", CONFIG, b'{"format": 1, "network": [1], "info": {}}'),
        (
            "width_controller",
            CONFIG,
            b'{"format": 1, "network": {"head_features": [], "global_features": [], "width": -1}}',
        ),
        ("text_controller", WEIGHTS, b"this is no tensor\n"),
        ("blank_controller", WEIGHTS, b""),
        ("changed_controller", WEIGHTS, b"x"),
    ):
        controller.save(folder / name)
        (folder / name / file).write_bytes(content)
        if name != "changed_controller":
            (folder / name / "digests.json").unlink()
    controller.save(folder / "list_digests")
    (folder / "list_digests" / "digests.json").write_text("[1, 2]")


def _runs(folder: Path) -> None:
    """Folders that look like runs."""
    for name, files in {
        "list_run": {"config.json": "[1, 2]"},
        "empty_run": {"config.json": ""},
        "latin_run": {"config.json": b"\xe9"},
        "foreign_run": {"config.json": json.dumps({"status": "finished"})},
        "value_run": {"config.json": json.dumps({"status": "stopped", "settings": {"cycles": "three"}})},
        "tracking_run": {"config.json": json.dumps({"status": "stopped", "settings": {"tracking": [1]}})},
        "trained": {"metrics.jsonl": "{}\n", "config.yaml": "agent: ppo\n", "checkpoint.pt": "no archive"},
        "list_trained": {"metrics.jsonl": "{}\n", "config.yaml": "[1, 2]\n", "checkpoint.pt": "no archive"},
        "binary_trained": {"metrics.jsonl": "{}\n", "config.yaml": b"\xff\xfe\x00", "checkpoint.pt": "no archive"},
        "searched": {"history.json": "[1, 2]"},
        "null_searched": {"history.json": "null"},
        "damaged_demo": {"comparison/results.json": "{"},
        "list_demo": {"comparison/results.json": "[1]", "training/metrics.jsonl": "[1]\n"},
        "list_arguments": {"config.json": "{}", "controller_arguments.json": "[1, 2]"},
        "list_curves": {"config.json": "[1]", "cells.jsonl": "[1]\n"},
    }.items():
        for file, content in files.items():
            path = folder / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())

"""Text: packed blocks, disjoint splits, every source, clear errors."""

from __future__ import annotations

import json
import re

import pytest
import torch

from plasticity_env import InputError, load_model, load_text
from plasticity_env.data import text as text_module
from plasticity_env.data.text import SPLITS, pack, some_blocks


@pytest.fixture(scope="module")
def tokenizer():
    return load_model("bard-gpt2-4x4").tokenizer


WORDS = "The quick brown fox jumps over the lazy dog while the moon rises over hill number "


def lines(count):
    return [f"{WORDS}{i}." for i in range(count)]


def test_embedded_splits_share_no_block(tokenizer):
    text = load_text("shakespeare", tokenizer, block_size=64)
    seen: dict[tuple[int, ...], str] = {}
    for split in ("calibration", "reward", "test"):
        for block in text.blocks(split).tolist():
            assert seen.setdefault(tuple(block), split) == split
    assert all(len(text.blocks(split)) >= 128 for split in ("calibration", "reward", "test"))


def test_blocks_are_full_and_in_reading_order(tokenizer):
    text = load_text("shakespeare", tokenizer, block_size=32)
    blocks = text.blocks("reward")
    assert blocks.shape[1] == 32
    whole = tokenizer.decode(blocks[:5].flatten())
    parts = "".join(tokenizer.decode(block) for block in blocks[:5])
    assert whole == parts


@pytest.mark.parametrize("suffix", ["txt", "jsonl", "parquet"])
def test_one_text_is_cut_into_four_disjoint_splits(tmp_path, tokenizer, suffix):
    path = tmp_path / f"text.{suffix}"
    if suffix == "txt":
        path.write_text("\n".join(lines(600)))
    elif suffix == "jsonl":
        path.write_text("\n".join(json.dumps({"text": line}) for line in lines(600)))
    else:
        from datasets import Dataset

        Dataset.from_dict({"text": lines(600)}).to_parquet(str(path))
    text = load_text(str(path), tokenizer, block_size=32, text_split="leading")
    splits = {split: text.blocks(split) for split in ("calibration", "reward", "test", "train")}
    assert len(splits["calibration"]) == len(splits["reward"]) == 64
    order = torch.cat([splits[name] for name in ("calibration", "reward", "test", "train")]).flatten()
    full = tokenizer("\n".join(lines(600)), add_special_tokens=False)["input_ids"]
    assert order.tolist() == full[: len(order)]  # the documented cut: in order, nothing twice, nothing lost
    assert len(full) - len(order) < 32


def test_a_hub_data_set_is_read_in_its_own_splits(tmp_path, tokenizer, monkeypatch):
    from datasets import Dataset

    folder = tmp_path / "set"
    folder.mkdir()
    for split, count in (("train", 40), ("validation", 30), ("test", 20)):
        Dataset.from_dict({"text": [f"{split} {line}" for line in lines(count)]}).to_parquet(
            str(folder / f"{split}.parquet")
        )
    from plasticity_env.data.text import _from_hub

    rows = _from_hub(str(folder), None)  # the hub's loader on local files in the hub's format
    assert {split: len(found) for split, found in rows.items()} == {"train": 40, "validation": 30, "test": 20}
    monkeypatch.setattr(text_module, "_from_hub", lambda *_: rows)
    for way in ("documents", "leading"):
        text = load_text("a/set", tokenizer, block_size=16, text_split=way)
        said = {split: tokenizer.decode(text.blocks(split).flatten()) for split in SPLITS}
        assert said["train"].count("train The") >= 38
        assert said["test"].count("test The") >= 18
        assert said["calibration"].count("validation The") >= 13
        assert said["reward"].count("validation The") >= 13
        calibration, reward = (set(re.findall(r"number (\d+)\.", said[split])) for split in ("calibration", "reward"))
        assert not calibration & reward


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "no text at"),
        ("short.txt", "two words", "four splits need at least 4"),
        ("bad.jsonl", '{"words": 1}', "line 1 of .* is not an object whose 'text' field is a string"),
    ],
)
def test_bad_text_is_one_clear_sentence(tmp_path, tokenizer, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        load_text(str(tmp_path / name), tokenizer, block_size=16)


def test_a_hub_name_without_a_network_names_the_offline_choice(tokenizer, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="without a network use --dataset shakespeare"):
        load_text("no-such-user/no-such-set", tokenizer)


def test_spread_blocks_lie_evenly_over_all_and_first_ones_at_the_start():
    ids = torch.arange(10)[:, None].expand(10, 3)
    assert some_blocks(ids, 4, spread=True)[:, 0].tolist() == [0, 2, 5, 7]
    assert some_blocks(ids, 10, spread=True)[:, 0].tolist() == list(range(10))
    assert some_blocks(ids, 4)[:, 0].tolist() == [0, 1, 2, 3]
    assert len(some_blocks(ids, None, spread=True)) == 10


def test_reading_text_leaves_the_tokenizers_longest_input_as_it_was(tokenizer, tmp_path):
    longest = tokenizer.model_max_length
    load_text("shakespeare", tokenizer, block_size=32).blocks("calibration")
    assert tokenizer.model_max_length == longest < 10**6
    tokenizer.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["model_max_length"] == longest


SENTENCE = "To be, or not to be, that is the question."


def first_words(path, tokenizer):
    return tokenizer.decode(load_text(path, tokenizer, block_size=32).blocks("calibration")[0])


@pytest.mark.parametrize("name", ["UPPER.JSONL", "rows.ndjson", "Rows.JsonLines"])
def test_suffixes_are_read_without_regard_to_case(tmp_path, tokenizer, name):
    (tmp_path / name).write_text("".join(json.dumps({"text": SENTENCE}) + "\n" for _ in range(90)))
    assert first_words(tmp_path / name, tokenizer).startswith(f"{SENTENCE}\nTo be")


@pytest.mark.parametrize("name", ["table.csv", "TABLE.TSV", "sheet.xlsx"])
def test_a_table_is_refused_by_name(tmp_path, tokenizer, name):
    (tmp_path / name).write_text("text,label\n" + f'"{SENTENCE}",1\n' * 90)
    with pytest.raises(InputError, match=r"is a table, whose syntax is not prose: save its text column"):
        load_text(tmp_path / name, tokenizer, block_size=32)


@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
def test_a_byte_order_mark_is_no_token(tmp_path, tokenizer, suffix):
    line = SENTENCE if suffix == "txt" else json.dumps({"text": SENTENCE})
    (tmp_path / f"plain.{suffix}").write_text(f"{line}\n" * 90)
    (tmp_path / f"marked.{suffix}").write_bytes(b"\xef\xbb\xbf" + f"{line}\n".encode() * 90)
    plain, marked = (
        load_text(tmp_path / f"{n}.{suffix}", tokenizer, block_size=32).blocks("train") for n in ("plain", "marked")
    )
    assert torch.equal(plain, marked)


def test_rows_end_at_a_line_feed_and_blank_ones_are_passed_over(tmp_path, tokenizer):
    rows = [f"One.\u2028Two\x85{SENTENCE} {i}" for i in range(60)]
    text = " \n\n".join(json.dumps({"text": row}, ensure_ascii=False) for row in rows) + "\r\n   \n"
    (tmp_path / "rows.jsonl").write_bytes(text.encode())
    (tmp_path / "prose.txt").write_text("\n".join(rows), encoding="utf-8")
    found, same = (
        load_text(tmp_path / n, tokenizer, block_size=32).blocks("train") for n in ("rows.jsonl", "prose.txt")
    )
    assert torch.equal(found, same)


@pytest.mark.parametrize("value", [None, ["a", "list"], 7])
def test_a_row_that_holds_no_string_is_named(tmp_path, tokenizer, value):
    from datasets import Dataset

    good = [SENTENCE] * 49
    if isinstance(value, list):
        good = [[row] for row in good]
    elif value is not None:
        good = [1] * 49
    Dataset.from_dict({"text": [*good, value]}).to_parquet(str(tmp_path / "rows.parquet"))
    with pytest.raises(InputError, match=r"row \d+ of .*rows.parquet' holds .* in its 'text' column, not a string"):
        load_text(tmp_path / "rows.parquet", tokenizer, block_size=32)
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"text": row}) for row in [SENTENCE, value]))
    with pytest.raises(InputError, match=r"line 2 of .*rows.jsonl' is not an object whose 'text' field is a string"):
        load_text(tmp_path / "rows.jsonl", tokenizer, block_size=32)


def test_paths_may_be_paths_and_a_tilde_is_the_home_folder(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.txt").write_text(f"{SENTENCE}\n" * 90)
    assert torch.equal(
        load_text("~/mine.txt", tokenizer, block_size=32).blocks("test"),
        load_text(tmp_path / "mine.txt", tokenizer, block_size=32).blocks("test"),
    )


def test_a_text_is_tokenised_once_a_process_and_nobody_can_spoil_it(tokenizer, monkeypatch):
    text = "\n".join(lines(97))
    first = pack(tokenizer, text, 8)
    wanted = first.clone()
    first.zero_()  # a caller's blocks are its own
    again = load_model("bard-gpt2-4x4").tokenizer  # another object that does the same

    def refuse(*args, **kwargs):
        raise AssertionError("tokenised again")

    with monkeypatch.context() as patch:
        patch.setattr(type(again), "__call__", refuse)
        assert torch.equal(pack(again, text, 8), wanted)
        with pytest.raises(AssertionError, match="tokenised again"):
            pack(again, text + "more", 8)
    other = load_model("bard-gpt2-4x4").tokenizer
    other.add_tokens(["lazy dog"])
    assert len(pack(other, text, 1)) < len(pack(tokenizer, text, 1))

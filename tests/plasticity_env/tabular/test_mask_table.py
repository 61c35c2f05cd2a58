"""Questions to a complete table, beside a search through all its rows by hand."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from plasticity_env import InputError
from plasticity_env.tabular import MaskTable, open_masks
from plasticity_env.tabular.data_card import masks_card
from plasticity_env.tabular.mask_table import mask_name
from plasticity_env.tabular.table_files import write_table

MASKS = [np.array(bits).reshape(2, 2) for bits in itertools.product((0, 1), repeat=4)]
RANDOM = np.random.default_rng(0)
REWARD, TEST = RANDOM.permutation(16) / 16, RANDOM.permutation(16) / 16


@pytest.fixture
def table(tmp_path: Path) -> MaskTable:
    heads = [int(mask.sum()) for mask in MASKS]
    rows = {
        "mask": [mask_name(mask) for mask in MASKS],
        "heads": pa.array(heads, pa.uint8()),
        "flops": pa.array([100.0 + 10 * count for count in heads], pa.float32()),
        "flops_kept": pa.array([(100.0 + 10 * count) / 140 for count in heads], pa.float32()),
        "calibration_loss": pa.array(1 - REWARD, pa.float32()),
        "reward_loss": pa.array(REWARD, pa.float32()),
    }
    about = {"kind": "masks", "version": "1.0.0", "model": "toy", "machines": ["x86_64, one thread"]}
    parts = {"masks": pa.table(rows), "masks_test": pa.table({"mask": rows["mask"], "test_loss": pa.array(TEST)})}
    write_table(tmp_path / "table", parts, about, masks_card(about, 16))
    return open_masks(tmp_path / "table")


def test_the_best_mask_within_limits(table: MaskTable) -> None:
    for heads in range(5):
        allowed = [i for i, mask in enumerate(MASKS) if mask.sum() <= heads]
        best = min(allowed, key=lambda i: REWARD[i])
        assert table.best(heads=heads).mask == mask_name(MASKS[best])
        assert table.best(flops_kept=(100 + 10 * heads + 1) / 140).mask == mask_name(MASKS[best])
    assert table.best(by="calibration_loss").reward_loss == pytest.approx(REWARD.max())
    assert table.final_calls == 0


def test_a_regret_curve_falls_to_zero_at_the_best_mask(table: MaskTable) -> None:
    order = RANDOM.permutation(16)
    curve = table.regret_curve([MASKS[i] for i in order], heads=3)
    allowed = [i for i in range(16) if MASKS[i].sum() <= 3]
    least = min(REWARD[i] for i in allowed)
    for place in range(16):
        seen = [REWARD[i] for i in order[: place + 1] if i in allowed]
        assert curve[place] == pytest.approx(min(seen, default=np.inf) - least, abs=1e-6)
    assert curve[-1] == 0
    assert table.final_calls == 0


def test_test_losses_come_only_from_final_which_counts(table: MaskTable) -> None:
    assert not hasattr(table.query(MASKS[3]), "test_loss")
    assert table.final(MASKS[3]) == pytest.approx(TEST[3])
    assert table.final_regret("11/11") == pytest.approx(TEST[15] - TEST.min())
    assert table.final_calls == 2
    with pytest.raises(InputError, match=r"not by 'test_loss': test losses only come from final\(\)"):
        table.best(by="test_loss")


@pytest.mark.parametrize("mask", ["1111", "11/1", "11/12", np.ones((3, 2)), np.array([[True, True]])])
def test_masks_of_another_shape_are_refused(table: MaskTable, mask: object) -> None:
    with pytest.raises(InputError, match=r"has no mask .* write 0 or 1 for each head"):
        table.query(mask)


def test_other_bad_questions_are_one_sentence(table: MaskTable) -> None:
    with pytest.raises(InputError, match="a mask is a string, or 0 and 1"):
        table.query([[0.5, 1], [1, 1]])
    with pytest.raises(InputError, match=r"no mask has at most None heads and 0\.1 of the FLOPs"):
        table.best(flops_kept=0.1)
    with pytest.raises(InputError, match="needs the masks that a search looked at"):
        table.regret_curve([])

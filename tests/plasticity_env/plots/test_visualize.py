"""Pictures hold what they were given, whatever its type; every one is a figure of its own, outside pyplot."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from plasticity_env import (
    InputError,
    MetricsLogger,
    PlasticModel,
    attention_maps,
    safe_tensor_imshow,
    visualize_attention_patterns,
    visualize_head_entropy,
    visualize_head_gradients,
    visualize_pruning_decisions,
    visualize_training_metrics,
)
from plasticity_env.plots.visualize import DECISIONS
from plasticity_env.training import TrainStep
from tests.conftest import build

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
MASK = torch.tensor([[True, False, False], [False, False, True]])


def image(figure, panel=0):
    """The values that a panel shows."""
    return figure.axes[panel].images[0].get_array()


def words(panel):
    return panel.get_title(loc="left")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("grad", [False, True])
def test_any_tensor_can_be_shown(dtype, device, grad):
    if grad and not dtype.is_floating_point:
        pytest.skip("has no gradient")
    tensor = torch.arange(6, device=device).view(2, 3).to(dtype).requires_grad_(grad)
    shown = image(safe_tensor_imshow(tensor * 1 if grad else tensor))
    assert shown.tolist() == tensor.double().tolist()


def test_shapes_that_make_sense():
    assert image(safe_tensor_imshow(torch.tensor(3))).tolist() == [[3]]
    assert image(safe_tensor_imshow([1, 2, 3])).tolist() == [[1, 2, 3]]
    assert image(safe_tensor_imshow(np.eye(2)[None, None])).tolist() == [[1, 0], [0, 1]]
    stacked = torch.arange(12.0).view(3, 2, 2).transpose(1, 2)
    figure = safe_tensor_imshow(stacked, title="channel", vmax=11)
    assert [image(figure, panel).tolist() for panel in range(3)] == stacked.tolist()
    assert [words(panel) for panel in figure.axes[:3]] == ["channel [0]", "channel [1]", "channel [2]"]
    assert {panel.images[0].get_clim() for panel in figure.axes[:3]} == {(0, 11)}  # one scale for all


def test_what_is_not_finite_is_grey_and_said():
    values = torch.tensor([[1.0, torch.nan], [torch.inf, 4.0]])
    figure = safe_tensor_imshow(values, title="loss", annotate=True)
    assert words(figure.axes[0]) == "loss (1 NaN, 1 infinite: grey)"
    assert np.ma.getmaskarray(image(figure)).tolist() == [[False, True], [True, False]]
    assert figure.axes[0].images[0].get_clim() == (1, 4)
    assert [text.get_text() for text in figure.axes[0].texts] == ["1", "nan", "inf", "4"]
    nothing = safe_tensor_imshow(torch.full((2, 2), torch.nan))
    assert words(nothing.axes[0]) == "(4 NaN: grey)"


def test_a_given_ax_is_drawn_on():
    figure = safe_tensor_imshow(torch.zeros(2, 2))
    assert safe_tensor_imshow(torch.ones(2, 2), figure.axes[0], colorbar=False) is figure
    assert len(figure.axes[0].images) == 2
    with pytest.raises(InputError, match="there is one ax"):
        safe_tensor_imshow(torch.ones(2, 2, 2), figure.axes[0])


def test_head_maps_show_values_and_what_is_pruned(tmp_path):
    values = torch.tensor([[0.5, 1.25, 2.0], [3.0, 0.001, torch.nan]])
    for draw in (visualize_head_entropy, visualize_head_gradients):
        figure = draw(values, active=~MASK, save_path=tmp_path / "deep" / "heads.png")
        panel = figure.axes[0]
        assert np.ma.filled(image(figure), -1).tolist() == pytest.approx(values.nan_to_num(-1.0).numpy())
        assert (panel.get_xlabel(), panel.get_ylabel()) == ("head", "layer")
        assert panel.get_ylim() == (1.5, -0.5)  # layer 0 on top
        assert [text.get_text() for text in panel.texts] == ["0.5", "1.25", "2", "3", "1e-3", "nan"]
        assert words(panel) == "2 of 6 heads pruned (×) (1 NaN: grey)"
        crosses = panel.lines[-1].get_xydata()
        assert crosses.round().tolist() == [[0, 0], [2, 1]]  # (head, layer)
        size = Image.open(tmp_path / "deep" / "heads.png").size
        assert size == tuple(int(side) for side in figure.bbox.size)


def test_normalised_entropy_has_one_scale():
    figure = visualize_head_entropy(torch.rand(2, 3) / 2, normalized=True)
    assert figure.axes[0].images[0].get_clim() == (0, 1)
    assert "share of maximum" in figure.axes[1].get_ylabel()


def test_decisions_name_every_state():
    active = torch.tensor([[True, True, False], [False, True, True]])
    none = torch.zeros_like(MASK)
    revived, grown = none.clone(), none.clone()
    revived[0, 2], grown[1, 0] = True, True
    figure = visualize_pruning_decisions(MASK, active=active, revived=revived, grown=grown, values=torch.rand(2, 3))
    names = list(DECISIONS)
    states = [[names[int(state)] for state in row] for row in image(figure, 1)]
    assert states == [["pruned now", "stays active", "revived"], ["grown", "stays active", "pruned now"]]
    assert words(figure.axes[1]) == "4 of 6 heads active afterwards"
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["stays active (2)", "pruned now (2)", "revived (1)", "grown (1)"]
    assert [text.get_text() for text in figure.axes[1].texts] == ["2 of 3", "2 of 3"]
    only = visualize_pruning_decisions(none.numpy(), active=active)
    assert [text.get_text() for text in only.legends[0].get_texts()] == ["stays active (4)", "pruned before (2)"]


def lines(figure, panel=0):
    return {line.get_label(): line.get_xydata().tolist() for line in figure.axes[panel].lines}


def test_metrics_in_every_form(tmp_path):
    arms = {"loss": {"experiment": [3.0, 2.0], "control": ([0, 5], [3.0, 2.5])}, "lr": torch.tensor([1.0, 2.0])}
    figure = visualize_training_metrics(arms, events={1: "pruned"})
    assert [words(panel) for panel in figure.axes[:2]] == ["loss", "lr"]
    drawn = lines(figure)
    assert drawn["experiment"] == [[0, 3], [1, 2]]
    assert drawn["control"] == [[0, 3], [5, 2.5]]
    assert figure.axes[0].texts[0].get_text() == "pruned"

    two = visualize_training_metrics({"a": {"control": [1.0], "x": [1.0], "y": [2.0]}, "b": {"y": [3.0]}})
    assert two.axes[0].lines[2].get_color() == two.axes[1].lines[0].get_color()  # an arm has one colour

    with MetricsLogger(tmp_path / "run") as logger:
        logger.log({"loss": 3.0}, step=10)
        logger.log({"loss": float("nan"), "ppl": 9.0}, step=20)
        figure = visualize_training_metrics(logger, names=["ppl", "loss"])
        assert logger.curves()["ppl"] == ([20], [9.0])
    assert [words(panel) for panel in figure.axes[:2]] == ["ppl", "loss (1 not finite: gaps)"]

    steps = [TrainStep(step, 3.0 - step, 1.0, 1e-4, None) for step in range(3)]
    figure = visualize_training_metrics(steps)
    assert [words(panel) for panel in figure.axes if panel.get_visible()] == ["loss", "grad_norm", "learning_rate"]
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[0, 3], [1, 2], [2, 1]]


def test_attention_patterns_are_the_models(ids):
    model = PlasticModel(build("llama"))
    mask = torch.zeros(2, 4, dtype=torch.bool)
    mask[1, 3] = True
    model.prune(mask)
    maps = attention_maps(model, ids)
    figure = visualize_attention_patterns(model, ids, sequence=1)
    assert len(figure.axes) == 8 + 1
    assert np.allclose(image(figure, 5), maps[1, 1, 1])
    assert words(figure.axes[7]) == "layer 1, head 3 pruned"
    few = visualize_attention_patterns(maps, layers=[1], heads=[0, 2], sequence=2, tokens=["a"] * 12)
    assert np.allclose(image(few, 1), maps[2, 1, 2])
    assert "2 of 8 heads" in few.get_suptitle()
    layered = visualize_attention_patterns([maps[:, 0], maps[:, 1]])  # as output_attentions gives them
    assert np.allclose(image(layered, 3), maps[0, 0, 3])
    assert np.allclose(image(visualize_attention_patterns(maps[0, 0, 0])), maps[0, 0, 0])


def test_many_heads_are_shown_in_part():
    figure = visualize_attention_patterns(torch.rand(20, 16, 3, 3))
    assert len(figure.axes) == 96 + 1
    assert words(figure.axes[0]) == "0.0"
    assert words(figure.axes[95]) == "19.15"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: safe_tensor_imshow(torch.empty(0)), "no picture"),
        (lambda: safe_tensor_imshow(torch.zeros(2, 2, 2, 2)), "no picture"),
        (lambda: safe_tensor_imshow(torch.zeros(2, dtype=torch.complex64)), "complex64"),
        (lambda: safe_tensor_imshow(torch.eye(2).to_sparse()), "to_dense"),
        (lambda: safe_tensor_imshow("words"), "real numbers"),
        (lambda: safe_tensor_imshow([[1], [1, 2]]), "rectangular"),
        (lambda: safe_tensor_imshow(torch.zeros(5000, 2)), "cut them"),
        (lambda: safe_tensor_imshow(torch.eye(2), cmap="rainbows"), "no colour map 'rainbows'"),
        (lambda: visualize_head_entropy(torch.zeros(3)), r"\(layers, heads\)"),
        (lambda: visualize_head_gradients(torch.zeros(2, 3), active=MASK.int()), "must be boolean"),
        (lambda: visualize_pruning_decisions(MASK, values=torch.zeros(3, 2)), r"\(2, 3\)"),
        (lambda: visualize_pruning_decisions(MASK, grown=MASK.t()), "'grown'"),
        (lambda: visualize_training_metrics({}), "no metric to draw"),
        (lambda: visualize_training_metrics({"loss": [1.0]}, names=["ppl"]), "there are loss"),
        (lambda: visualize_training_metrics([1.0, 2.0]), "need a name"),
        (lambda: visualize_attention_patterns(build("gpt2")), "pass input_ids"),
        (lambda: visualize_attention_patterns(torch.zeros(3, 4)), r"\(T, T\)"),
        (lambda: visualize_attention_patterns(torch.zeros(1, 2, 3, 3), heads=[2]), "no head 2"),
        (lambda: visualize_attention_patterns(torch.zeros(3, 3), tokens=["a"]), "do not name 3 tokens"),
    ],
)
def test_bad_input_writes_nothing(call, said):
    with pytest.raises(InputError, match=said):
        call()


def test_pyplot_and_import_time_are_left_alone():
    code = (
        "import sys, plasticity_env as p; assert 'matplotlib' not in sys.modules;"
        "import torch; p.visualize_head_entropy(torch.rand(2, 3)); p.visualize_training_metrics({'loss': [1.0]});"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr

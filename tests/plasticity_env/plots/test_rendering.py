"""Frames that every video player takes, and a window that lives as long as somebody shows something in it."""

from __future__ import annotations

import numpy as np
import pytest

from plasticity_env.plots.rendering import picture, show

INFO = {"active_heads": 3, "ppl": 12.0, "flops": 2e6}


@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (2, 3), (3, 12), (4, 13), (5, 20)])
def test_frames_are_even_in_both_directions(layers: int, heads: int) -> None:
    active = np.ones((layers, heads), dtype=bool)
    frame = picture("model", active, ~active, np.arange(active.size).reshape(active.shape), INFO)
    assert frame.shape[0] % 2 == frame.shape[1] % 2 == 0
    assert (frame[-1, -1] == frame[0, 0]).all(), "what is added is background"


class Owner:
    """Somebody who shows frames."""


def frame(height: int) -> np.ndarray:
    return np.full((height, 40, 3), 200, dtype=np.uint8)


@pytest.fixture
def pygame(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    pygame = pytest.importorskip("pygame")
    pygame.display.quit()
    yield pygame
    pygame.display.quit()


def test_closing_one_window_does_not_end_the_others(pygame) -> None:
    first, second = Owner(), Owner()
    show(first, frame(20), 1000)
    show(second, frame(30), 1000)
    show(second, None, 0)
    show(first, frame(20), 1000)
    assert pygame.display.get_surface().get_size() == (40, 20)
    show(first, None, 0)
    show(first, None, 0)
    assert not pygame.display.get_init()
    show(second, frame(30), 1000)
    assert pygame.display.get_surface().get_size() == (40, 30)
    show(second, None, 0)


def test_a_window_of_somebody_else_stays_open(pygame) -> None:
    pygame.display.init()
    pygame.display.set_mode((10, 10))
    owner = Owner()
    show(owner, frame(20), 1000)
    show(owner, None, 0)
    assert pygame.display.get_init()


def test_a_window_that_somebody_else_closed_is_opened_again(pygame) -> None:
    owner = Owner()
    show(owner, frame(20), 1000)
    pygame.quit()
    show(owner, frame(20), 1000)
    assert pygame.display.get_surface().get_size() == (40, 20)
    show(owner, None, 0)
    assert not pygame.display.get_init()

"""Pictures of the heads: text, an array, a window."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from plasticity_env.common.packages import require

_CELL, _GAP, _MARGIN, _TOP = 26, 3, 46, 62
_BACK, _INK, _MUTED = (250, 250, 248), (32, 33, 36), (120, 122, 128)
_LOW, _HIGH = np.array([222, 235, 247]), np.array([8, 69, 148])  # unimportant to important
_showing: set[int] = set()  # the environments that show their frames in this process's window
_opened = False  # whether we opened it
_PRUNED, _FRESH_PRUNED, _BACK_AGAIN = (226, 226, 224), (214, 69, 65), (46, 139, 87)


def headline(name: str, info: dict[str, Any]) -> str:
    """One line that sums the state up."""
    return (
        f"{name}  active {info['active_heads']}  ppl {info['ppl']:.2f}  "
        f"MFLOPs/token {info['flops'] / 1e6:.3f}  params {info['params'] / 1e6:.3f}M"
    )


def ansi(name: str, active: np.ndarray, edited: np.ndarray, info: dict[str, Any]) -> str:
    """Heads as characters, a row a layer: ``#`` active, ``+`` just brought back, ``.`` pruned, ``x`` just pruned."""
    rows = [headline(name, info)]
    for layer, (on, fresh) in enumerate(zip(active, edited, strict=True)):
        marks = [("+" if f else "#") if a else ("x" if f else ".") for a, f in zip(on, fresh, strict=True)]
        rows.append(f"layer {layer:2d}  {' '.join(marks)}  {int(on.sum())}/{len(on)}")
    return "\n".join(rows) + "\n"


def picture(
    name: str, active: np.ndarray, edited: np.ndarray, importance: np.ndarray, info: dict[str, Any]
) -> np.ndarray:
    """Heads as cells, a row a layer: blue by the rank of their importance, grey when pruned, red when pruned just now.

    Args:
        name: Name of the model.
        active: (L, H) boolean.
        edited: (L, H) boolean, edited by the latest action.
        importance: (L, H), any scale.
        info: Info dictionary of the environment.

    Returns:
        (height, width, 3) uint8; both are even, as most video formats want them.
    """
    layers, heads = active.shape
    width = max(_MARGIN + heads * (_CELL + _GAP) + 16, 420)
    height = _TOP + layers * (_CELL + _GAP) + 34
    image = Image.new("RGB", (width + width % 2, height + height % 2), _BACK)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    draw.text((12, 10), name, fill=_INK, font=ImageFont.load_default(16))
    line = (
        f"{info['active_heads']}/{active.size} heads   perplexity {info['ppl']:.2f}   "
        f"{info['flops'] / 1e6:.3f} MFLOPs/token"
    )
    draw.text((12, 34), line, fill=_MUTED, font=font)
    ranks = importance.reshape(-1).argsort().argsort().reshape(active.shape) / max(1, active.size - 1)
    for layer in range(layers):
        top = _TOP + layer * (_CELL + _GAP)
        draw.text((14, top + 5), f"{layer}", fill=_MUTED, font=font)
        for head in range(heads):
            left = _MARGIN + head * (_CELL + _GAP)
            if active[layer, head]:
                fill = tuple(int(c) for c in _LOW + (_HIGH - _LOW) * ranks[layer, head])
            else:
                fill = _FRESH_PRUNED if edited[layer, head] else _PRUNED
            outline = _BACK_AGAIN if edited[layer, head] and active[layer, head] else None
            draw.rounded_rectangle((left, top, left + _CELL, top + _CELL), 5, fill=fill, outline=outline, width=3)
    bottom = _TOP + layers * (_CELL + _GAP) + 10
    x = 14
    for label, colour in (
        ("high Fisher", tuple(_HIGH)),
        ("low", tuple(_LOW)),
        ("pruned now", _FRESH_PRUNED),
        ("pruned", _PRUNED),
        ("back", _BACK_AGAIN),
    ):
        draw.rounded_rectangle((x, bottom, x + 12, bottom + 12), 3, fill=tuple(int(c) for c in colour))
        draw.text((x + 17, bottom - 2), label, fill=_MUTED, font=font)
        x += 32 + int(draw.textlength(label, font=font))
    return np.asarray(image)


def show(owner: Any, frame: np.ndarray | None, fps: int) -> None:
    """Show a frame in the window (pygame), opening it first if need be; None says that ``owner`` shows no more.

    pygame has one window a process, so that several environments draw into the same one, each in its own size; it closes with
    the last of them. One that somebody else opened stays open.
    """
    if frame is None:
        if id(owner) in _showing:
            _showing.discard(id(owner))
            _close_window()
        return
    require("pygame", "human")
    import pygame

    global _opened
    if not pygame.display.get_init():
        pygame.display.init()
        _opened = True
    size, window = (frame.shape[1], frame.shape[0]), pygame.display.get_surface()
    if window is None or window.get_size() != size:
        pygame.display.set_caption("plasticity-env")
        window = pygame.display.set_mode(size)
    if id(owner) not in _showing:
        _showing.add(id(owner))
        weakref.finalize(owner, _showing.discard, id(owner))
    pygame.event.pump()
    window.blit(pygame.surfarray.make_surface(frame.swapaxes(0, 1)), (0, 0))
    pygame.display.flip()
    owner.__dict__.setdefault("_clock", pygame.time.Clock()).tick(fps)


def _close_window() -> None:
    """Close the window, where nobody shows anything in it any more and it is ours."""
    global _opened
    if _opened and not _showing:
        import pygame

        pygame.display.quit()
        _opened = False

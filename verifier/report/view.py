"""`verify view`: one instance as a picture.

Drawn are the centre c of the property's box, the counterexample x (read from a file) and x - c; without one, c and the
half-width of the box. An input that is an image is drawn as one, any other as a curve over its entries. Below stand the
model's outputs at both points, by ONNX Runtime on the model's own file, and the margin of the greatest output over the
next.

What an image is, is read off the shape of the model's only input: [1,] C, H, W or [1,] H, W, C with one channel or
three; a flat input of k*k or 3*k*k entries is taken for one of such shape, channels first.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from verifier.config import ModelConfig
from verifier.report import plots
from verifier.result import FileError, InputError, MismatchError, UsageError

ENDINGS = (".png", ".svg", ".pdf")
SMALLEST = 7  # a flat input of fewer than 7 by 7 entries is no image
BARS = 20  # outputs drawn; of more, the greatest at either point
COLOURS = plots.SERIES[0], plots.SERIES[1]


def draw(
    model: str, prop: str, witness: str | None, out: str | os.PathLike[str], config: ModelConfig | None = None
) -> list[str]:
    """Draws the instance into the file `out`; lines that say what was drawn."""
    if Path(out).suffix.lower() not in ENDINGS:
        raise UsageError(f"{out}: name a picture that ends with {', '.join(ENDINGS)}")
    if not plots.available():
        raise UsageError("pictures need matplotlib: pip install 'clipbab[plots]'")
    from verifier import api

    replayer = api.replayer(model, prop, config)
    x = _witness(witness, replayer.query.n_inputs) if witness else None
    names = ["centre", "given point"]
    lower, upper = _box(replayer.query, x, prop)
    centre = (lower + upper) / 2
    outputs = [replayer.run(centre)]
    said = []
    if x is not None:
        judgement = replayer.judge(x)
        outputs.append(judgement.y)
        holds = not judgement.wrong
        names[1] = "counterexample" if holds else "given point"
        said.append("" if holds else "no counterexample: the property does not hold at the given point")
    shape = image_shape([t.shape for t in replayer.network.inputs])
    size = "curves" if shape is None else f"an image of {shape[1]}x{shape[2]}, {shape[0]} channel(s)"
    said = list(filter(None, said))
    title = "\n".join([f"{_short(Path(model).name)} · {_short(Path(prop).name)}", *said])
    _save(_picture(title, centre, (upper - lower) / 2, x, outputs, shape, names), out)
    return [f"input: {size}", *(f"{n}: {margin(y)}" for n, y in zip(names, outputs)), *said, f"written: {out}"]


def image_shape(shapes: list[tuple[int, ...]]) -> tuple[int, int, int, bool] | None:
    """(channels, height, width, channels come last) of the input, or None where it is no image."""
    if len(shapes) != 1:
        return None
    sizes = shapes[0]
    while len(sizes) > 3 and sizes[0] == 1:
        sizes = sizes[1:]
    if len(sizes) == 3 and sizes[0] in (1, 3) and min(sizes[1:]) > 1:
        return sizes[0], sizes[1], sizes[2], False
    if len(sizes) == 3 and sizes[2] in (1, 3) and min(sizes[:2]) > 1:
        return sizes[2], sizes[0], sizes[1], True
    long = [s for s in sizes if s > 1]
    if len(long) == 2 and min(long) >= SMALLEST:  # [1, H, W]
        return 1, long[0], long[1], False
    if len(long) != 1:
        return None
    for channels in (1, 3):
        side = math.isqrt(long[0] // channels)
        if side >= SMALLEST and channels * side * side == long[0]:
            return channels, side, side, False
    return None


def as_image(x: np.ndarray, shape: tuple[int, int, int, bool]) -> np.ndarray:
    """x (n,) to (height, width) for one channel, (height, width, 3) for three."""
    channels, height, width, last = shape
    if channels == 1:
        return x.reshape(height, width)
    return x.reshape(height, width, 3) if last else x.reshape(3, height, width).transpose(1, 2, 0)


def margin(y: np.ndarray) -> str:
    """The greatest of the outputs (p,), and how far it is ahead."""
    if len(y) < 2:
        return f"Y_0 = {y[0]:.4g}"
    order = np.argsort(-y, kind="stable")
    return f"Y_{order[0]} is greatest, {y[order[0]] - y[order[1]]:.4g} ahead of Y_{order[1]}"


def _short(name: str, most: int = 44) -> str:
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-(most // 2 - 1) :]}"


def _witness(path: str, n: int) -> np.ndarray:
    from verifier.evidence.witness import read

    x = read(path).x
    if len(x) != n:
        raise MismatchError(f"{path}: the counterexample has {len(x)} inputs, the model takes {n}")
    if not np.isfinite(x).all():
        raise MismatchError(f"{path}: the counterexample has entries that are no finite numbers")
    return x


def _box(query: Any, x: np.ndarray | None, prop: str) -> tuple[np.ndarray, np.ndarray]:
    """The box (n,), (n,) that x violates least; the property's first without x."""
    alive = np.flatnonzero(~query.empty)
    if not len(alive):
        raise InputError(f"{prop}: no input satisfies the property's bounds, so there is no centre to draw")
    k = alive[0]
    if x is not None:
        off = [np.maximum(query.lower[i] - x, x - query.upper[i]).max() for i in alive]
        k = alive[int(np.argmin(off))]
    lower, upper = query.lower[k], query.upper[k]
    if not (np.isfinite(lower) & np.isfinite(upper)).all():
        raise InputError(f"{prop}: {', '.join(query.unbounded()[:5])} without bounds, so there is no centre to draw")
    return lower, upper


def _picture(
    title: str,
    centre: np.ndarray,
    radius: np.ndarray,
    x: np.ndarray | None,
    outputs: list[np.ndarray],
    shape: tuple[int, int, int, bool] | None,
    names: Sequence[str] = ("centre", "counterexample"),
) -> Any:
    with plots.style():
        fig = plots.figure(9.0, 6.0 if shape is not None else 6.4)
        fig.suptitle(plots.plain(title), fontsize=10)
        parts = fig.subfigures(2, 1, height_ratios=[1.1, 1.0])
        if shape is None:
            _curves(parts[0], centre, radius, x, names[1])
        else:
            _images(parts[0], centre, radius, x, shape, names[1])
        _bars(parts[1].add_subplot(), outputs, names)
        return fig


def _images(part: Any, centre: np.ndarray, radius: np.ndarray, x: np.ndarray | None, shape: Any, name: str) -> None:
    shown = centre if x is None else np.concatenate([centre, x])
    low, high = float(shown.min()), float(shown.max())
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    span = (high - low) or 1.0
    change = radius if x is None else x - centre
    most = float(np.abs(change).max()) or 1.0
    panels = [("centre", (centre - low) / span, 0.0, "gray")]
    if x is None:
        panels.append((f"half-width, at most {np.abs(change).max():.3g}", change / most, 0.0, "gray"))
    else:
        panels.append((name, (x - low) / span, 0.0, "gray"))
        panels.append((f"difference, at most {np.abs(change).max():.3g}", change / most, -1.0, "RdBu_r"))
    for axes, (title, values, least, colours) in zip(np.atleast_1d(part.subplots(1, len(panels))), panels):
        picture = as_image(values, shape)
        if picture.ndim == 3:  # colours from 0 to 1; no change is grey
            picture = (picture - least) / (1 - least)
        axes.imshow(np.clip(picture, least, 1), cmap=colours, vmin=least, vmax=1, interpolation="nearest")
        axes.set_title(title, fontsize=9)
        axes.set(xticks=[], yticks=[])
        for side in axes.spines.values():
            side.set(visible=True, alpha=0.3)


def _curves(part: Any, centre: np.ndarray, radius: np.ndarray, x: np.ndarray | None, name: str) -> None:
    axes, below = part.subplots(2, 1, sharex=True)
    at = np.arange(len(centre))
    line = {"marker": "o", "markersize": 3} if len(at) <= 60 else {}
    box = {"color": plots.NEITHER, "alpha": 0.3, "label": "box"}
    if len(at) <= 60:
        axes.bar(at, 2 * radius, bottom=centre - radius, **box)
    else:
        axes.fill_between(at, centre - radius, centre + radius, step="mid", **box)
    axes.plot(at, centre, color=COLOURS[0], label="centre", linewidth=1, **line)
    below.set_ylabel("half-width" if x is None else "difference")
    below.bar(at, radius if x is None else x - centre, color=COLOURS[x is not None])
    if x is not None:
        axes.plot(at, x, color=COLOURS[1], label=name, linewidth=1, **line)
    axes.set_ylabel("input")
    axes.legend(loc="best", fontsize=8)
    below.set_xlabel("input X_i")
    below.xaxis.get_major_locator().set_params(integer=True)


def _bars(axes: Any, outputs: list[np.ndarray], names: Sequence[str]) -> None:
    """Bars of the outputs at each point, in order of their index."""
    n = len(outputs[0])
    kept = np.arange(n)
    if n > BARS:
        kept = np.sort(np.argsort(-np.max(outputs, axis=0), kind="stable")[:BARS])
    width = 0.8 / len(outputs)
    for k, (name, y) in enumerate(zip(names, outputs)):
        places = np.arange(len(kept)) + (k - (len(outputs) - 1) / 2) * width
        axes.bar(places, y[kept], width, color=COLOURS[k], label=f"{name}: {margin(y)}")
    axes.axhline(0, color=plots.INK, linewidth=0.8)
    axes.set_xticks(np.arange(len(kept)), [f"Y_{i}" for i in kept], fontsize=8, rotation=60 if len(kept) > 12 else 0)
    axes.set_ylabel("output" if n <= BARS else f"output ({BARS} greatest of {n})")
    axes.grid(axis="x", visible=False)
    axes.margins(y=0.12)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14 if len(kept) <= 12 else -0.24), ncols=2, fontsize=8)


def _save(fig: Any, out: str | os.PathLike[str]) -> None:
    try:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        with plots.style():
            fig.savefig(out, dpi=150, facecolor="white")
    except OSError as e:
        raise FileError(f"{out}: cannot be written: {e.strerror}") from None

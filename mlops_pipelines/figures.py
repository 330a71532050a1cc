"""Small pictures for metadata and reports: PNG bytes, drawn off screen, the same bytes for the same input.

Every picture is a few kilobytes, so that it can travel inside a Markdown data URI.
"""

from __future__ import annotations

import base64
import io
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_WIDTH_INCHES = 5.2
_DPI = 90
_INK = "#30343b"
_GRID = "#e3e6ea"
# Told apart with any colour vision, and in grey (Okabe and Ito 2008): blue, vermilion, green.
_BLUE = "#0072b2"
_PALE = "#b3d4e8"
_RED = "#d55e00"
_GREEN = "#009e73"
_GREY = "#8a9099"
# Of the same palette, for more lines than three.
_POLICIES = (_BLUE, _RED, _GREEN, "#cc79a7", "#e69f00", "#56b4e9", _INK)
_COLOURS = 32


def precision_recall(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    prevalence: float,
    title: str = "Precision and recall",
) -> bytes:
    """PNG of precision against recall, one curve a model, with the prevalence as the floor.

    curves: (recall, precision) by name, as `precision_recall_points` gives them, at most three.
    """
    figure, axes = _canvas(3.4, title)
    for (name, (recall, precision)), colour in zip(curves.items(), (_BLUE, _RED, _GREEN), strict=False):
        axes.plot(recall, precision, color=colour, linewidth=1.6, label=name)
    axes.axhline(prevalence, color=_GREY, linewidth=1, linestyle=":", label=f"prevalence {prevalence:.2f}")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(loc="upper right", fontsize=8, frameon=False)
    return _png(figure)


def precision_recall_points(
    labels: NDArray[np.integer], scores: NDArray[np.float64], *, points: int = 200
) -> tuple[list[float], list[float]]:
    """Recall and precision at the distinct scores, from the highest down, thinned to at most `points`.

    labels: 0 or 1, shape (rows,), at least one 1. scores: shape (rows,).
    """
    import numpy as np

    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(labels[order], dtype=np.float64)
    last_of_tie = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    if last_of_tie.size > points:
        last_of_tie = last_of_tie[np.linspace(0, last_of_tie.size - 1, points).astype(np.intp)]
    recall = found[last_of_tie] / found[-1]
    precision = found[last_of_tie] / (last_of_tie + 1)
    return recall.round(5).tolist(), precision.round(5).tolist()


def calibration(
    predicted: Sequence[float],
    observed: Sequence[float],
    rows: Sequence[int],
    *,
    title: str = "Calibration",
) -> bytes:
    """PNG of the observed share against the mean score, one point a bin, its area by the bin's rows.

    predicted, observed: in [0, 1]; rows: > 0; all of one length. On the diagonal, scores mean what they say.
    """
    figure, axes = _canvas(3.4, title)
    top = min(1.0, 1.1 * max([*predicted, *observed, 0.05]))
    largest = max(rows, default=1)
    axes.plot([0, top], [0, top], color=_GREY, linewidth=1, linestyle=":", label="perfect")
    axes.plot(predicted, observed, color=_BLUE, linewidth=1.2)
    axes.scatter(predicted, observed, s=[12 + 36 * n / largest for n in rows], color=_BLUE, label="bins")
    axes.set(xlabel="mean score", ylabel="observed share", xlim=(0, top), ylim=(0, top))
    axes.legend(loc="upper left", fontsize=8, frameon=False)
    return _png(figure)


def predicted_and_observed(
    predicted: Sequence[float], observed: Sequence[float], rows: Sequence[int], *, title: str = "Predictions"
) -> bytes:
    """PNG of the mean label against the mean prediction, one point a bin, its area by the bin's rows.

    On the diagonal, predictions are right on average.
    """
    figure, axes = _canvas(3.4, title)
    ends = [min(*predicted, *observed), max(*predicted, *observed)]
    largest = max(rows, default=1)
    axes.plot(ends, ends, color=_GREY, linewidth=1, linestyle=":", label="right on average")
    axes.plot(predicted, observed, color=_BLUE, linewidth=1.2)
    axes.scatter(predicted, observed, s=[12 + 36 * n / largest for n in rows], color=_BLUE, label="bins")
    axes.set(xlabel="mean prediction", ylabel="mean label")
    axes.legend(loc="upper left", fontsize=8, frameon=False)
    return _png(figure)


def bars(
    values: Mapping[str, float],
    *,
    title: str,
    unit: str = "rows",
    paler: Mapping[str, float] | None = None,
    limit: int = 15,
) -> bytes:
    """PNG of a horizontal bar a name, in the order given, at most `limit` of them (the rest is counted).

    values: in `unit`. paler: the part of a bar, from zero, that is drawn paler; all of it where it is more.
    """
    shown = dict(list(values.items())[:limit])
    paler = paler or {}
    names = [textwrap.fill(textwrap.shorten(name, 68, placeholder="…"), 36) for name in shown]
    lines = sum(1 + name.count("\n") / 2 for name in names)
    figure, axes = _canvas(0.9 + 0.24 * max(lines, 1), title)
    positions = range(len(shown))
    drawn = axes.barh(positions, list(shown.values()), color=_BLUE, height=0.7)
    figures = [f"{value:,}" if isinstance(value, int) else f"{value:.3g}" for value in shown.values()]
    axes.bar_label(drawn, figures, padding=2, fontsize=7, color=_INK)
    parts = [min(paler.get(name, 0.0), value) for name, value in shown.items()]
    axes.barh(positions, parts, color=_PALE, height=0.7)
    axes.set_yticks(positions, names)
    axes.invert_yaxis()
    axes.axvline(0, color=_GREY, linewidth=0.7)
    low, high = min([*shown.values(), 0.0]), max([*shown.values(), 0.0])
    room = 0.12 * (high - low)  # for the figures
    axes.set_xlim(low - room if low else 0.0, high + room if high > low else 1.0)
    hidden = len(values) - len(shown)
    axes.set_xlabel(f"{unit} (and {hidden} more)" if hidden else unit)
    axes.grid(visible=False, axis="y")
    return _png(figure)


def policies(
    losses: Mapping[str, Mapping[str, float]],
    retrains: Mapping[str, Sequence[datetime]],
    *,
    title: str,
    unit: str,
) -> bytes:
    """PNG of a line a policy, its loss by week less that of the first one, and of each a row of its retrains.

    losses: by policy, and by the first day of the week, YYYY-MM-DD, the same weeks for all. retrains:
    moments, UTC. At most seven policies.
    """
    import numpy as np
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    figure, axes = _canvas(4.4, title)
    names = [*losses]
    # A week's loss stands in its middle: a change is not seen before the retrain that made it.
    weeks = np.array([*losses[names[0]]], dtype="datetime64[D]") + np.timedelta64(3, "D")
    lines = np.array([[*losses[name].values()] for name in names])
    lines -= lines[0].copy()
    low, high = float(lines.min()), float(lines.max())
    # Marks stand below the lines, a row each; the names above.
    row = 0.08 * ((high - low) or 1.0)
    for number, (name, line, colour) in enumerate(zip(names, lines, _POLICIES, strict=False)):
        count = len(retrains[name])
        label = f"{name}, {count} {'retrain' if count == 1 else 'retrains'}"
        axes.plot(weeks, line, color=colour, linewidth=1.6, label=label)
        # Without the time zone, which is UTC.
        marks = np.array([one.replace(tzinfo=None) for one in retrains[name]], dtype="datetime64[s]")
        axes.scatter(marks, np.full(count, low - (number + 1.5) * row), color=colour, marker="|", s=28)
    above = (len(names) + 1) * row
    axes.set(ylabel=f"{unit} by week, less that of {names[0]}", ylim=(low - above - row, high + above))
    axes.set_xlabel("marks: retrains")
    dates = AutoDateLocator(minticks=1, maxticks=7)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(dates)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(dates))  # type: ignore[no-untyped-call]
    axes.legend(loc="upper left", fontsize=8, frameon=False)
    return _png(figure)


def as_markdown(png: bytes, alt: str) -> str:
    """Markdown image that carries its own bytes as a data URI.

    alt: what a reader who cannot see the picture is told.
    """
    text = alt.replace("[", "(").replace("]", ")")
    return f"![{text}](data:image/png;base64,{base64.b64encode(png).decode('ascii')})"


def _canvas(height: float, title: str) -> tuple[Figure, Axes]:
    # The object interface: pyplot keeps global state and picks a display backend.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH_INCHES, height), dpi=_DPI, layout="tight")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=10, color=_INK, loc="left", pad=12)
    axes.grid(visible=True, color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, colors=_INK, length=0)
    axes.xaxis.label.set(fontsize=8, color=_INK)
    axes.yaxis.label.set(fontsize=8, color=_INK)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _png(figure: Figure) -> bytes:
    """PNG of few colours without metadata: a third of matplotlib's own size, no version or date inside."""
    from PIL import Image

    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    picture = Image.open(drawn).convert("RGB").quantize(colors=_COLOURS, dither=Image.Dither.NONE)
    picture.save(packed, format="png", optimize=True)
    return packed.getvalue()

"""Series as curves of braille dots, as wide as the terminal."""

import math
from collections.abc import Sequence
from itertools import pairwise

from rich.text import Text

from api.schemas import MetricSeriesOut

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bit of the dot in row and column of a braille sign, whose dots stand four high and two wide."""
_BLANK = 0x2800
_MIN_WIDTH = 20
Bar = tuple[float, float, float, float]
"""x, and the low, high and middle value there."""


def plot(series: MetricSeriesOut, *, width: int, height: int = 10) -> Text:
    """One series with its axes in `width` columns; the spread of an envelope's buckets stands as bars."""
    bars = _bars(series)
    title = f"{series.name}{f' [{series.unit}]' if series.unit else ''}"
    if not bars:
        return Text.assemble((title, "bold"), "\n  no finite value yet\n")
    low, high = min(bar[1] for bar in bars), max(bar[2] for bar in bars)
    labels = [f"{value:.4g}" for value in (high, (low + high) / 2, low)]
    margin = max(len(label) for label in labels) + 1
    columns = max(_MIN_WIDTH, width - margin - 1)
    lines = _drawn(bars, (low, high), columns, height)
    shown = {0: labels[0], height // 2: labels[1], height - 1: labels[2]} if high > low else {height // 2: labels[0]}
    text = Text.assemble((title, "bold"), "\n")
    for row, line in enumerate(lines):
        text.append(f"{shown.get(row, ''):>{margin}}", style="dim")
        text.append("│", style="dim").append(line, style="cyan").append("\n")
    first, last = f"{bars[0][0]:g}", f"step {bars[-1][0]:g}"
    text.append(f"{'':>{margin}}└{'─' * columns}\n", style="dim")
    text.append(f"{'':>{margin}} {first}{last:>{max(1, columns - len(first))}}\n", style="dim")
    return text


def _bars(series: MetricSeriesOut) -> list[Bar]:
    """Finite values alone."""
    points = [(float(one.step), one.value, one.value, one.value) for one in series.points if math.isfinite(one.value)]
    buckets = [
        ((one.first_step + one.last_step) / 2, one.min, one.max, one.mean)
        for one in series.envelope
        if one.min is not None and one.max is not None and one.mean is not None
    ]
    return points or buckets


def _drawn(bars: Sequence[Bar], limits: tuple[float, float], columns: int, rows: int) -> list[str]:
    dots: set[tuple[int, int]] = set()
    first, last = bars[0][0], bars[-1][0]
    low, high = limits

    def place(x: float, y: float) -> tuple[int, int]:
        across = (x - first) / (last - first) if last > first else 0.5
        up = (y - low) / (high - low) if high > low else 0.5
        return round(across * (2 * columns - 1)), round((1 - up) * (4 * rows - 1))

    for x, bottom, top, _ in bars:
        (column, lowest), (_, highest) = place(x, bottom), place(x, top)
        dots.update((column, row) for row in range(highest, lowest + 1))
    for one, other in pairwise(bars):
        dots.update(_line(place(one[0], one[3]), place(other[0], other[3])))
    signs = [[_BLANK] * columns for _ in range(rows)]
    for column, row in dots:
        signs[row // 4][column // 2] |= _DOTS[row % 4][column % 2]
    return ["".join(map(chr, line)).replace(chr(_BLANK), " ") for line in signs]


def _line(start: tuple[int, int], end: tuple[int, int]) -> set[tuple[int, int]]:
    """The dots between two, itself and the other included."""
    steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    return {
        (
            round(start[0] + (end[0] - start[0]) * step / steps),
            round(start[1] + (end[1] - start[1]) * step / steps),
        )
        for step in range(steps + 1)
    }

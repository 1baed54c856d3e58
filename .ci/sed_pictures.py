"""The pictures of docs/explain/sed.md: `python .ci/sed_pictures.py docs/explain` draws them anew."""

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

Curve = tuple[str, str, Callable[[float], float]]
"""Legend, colour, and the function of p."""

BLUE, ORANGE, GREY = "#3b5bdb", "#d9480f", "#868e96"
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 560, 300, 56, 36, 20, 44
LEAST_P = 0.02
"""Cross entropy has no value at 0."""

FLEXIBLE = [("6", 0.645), ("3", 0.325), ("1", 0.023)]
RIGID = [("18", 0.995), ("9", 0.002), ("12", 0.0)]
TAU = 0.996
"""Probabilities of the likeliest tokens by examples/countdown/base on the first row of data/sft.jsonl, `1 3 6 -> 17 :`,
at the first token of `3 * 6 = 18 ; …` and behind `3 * 6 =`. TAU is the 30 % quantile of the mass of two over the 1,200
response tokens of the first 100 rows: mask_ratio 0.7 leaves 70 % of them without a penalty."""


def pictures() -> dict[str, str]:
    """Name and text of each file."""
    penalty: list[Curve] = [
        ("cross entropy, -log p", GREY, lambda p: -math.log(p)),
        ("penalty, (p - 1/2)²", ORANGE, lambda p: (p - 0.5) ** 2),
        ("SED on a flexible token: their sum", BLUE, lambda p: -math.log(p) + (p - 0.5) ** 2),
    ]
    weight: list[Curve] = [
        ("cross entropy and rigid tokens: 1", GREY, lambda _: 1.0),
        ("flexible, lambda 0.5", ORANGE, lambda p: 1 - 0.5 * p * (2 * p - 1)),
        ("flexible, lambda 1 (the paper)", BLUE, lambda p: 1 - p * (2 * p - 1)),
    ]
    return {
        "sed-loss.svg": _chart(
            "Loss of a token by the probability p of its label (lambda 1)", penalty, 2.5, "nats", (300, 56)
        ),
        "sed-weight.svg": _chart("Factor on the cross entropy's gradient", weight, 1.25, "w", (70, 180)),
        "sed-tokens.svg": _tokens(),
    }


def _chart(title: str, curves: Sequence[Curve], top: float, unit: str, legend: tuple[int, int]) -> str:
    body = [_text(LEFT, 22, title, bold=True), *_axes(top, unit)]
    for place, (name, colour, function) in enumerate(curves):
        points = " ".join(f"{_x(p):.1f},{_y(function(p), top):.1f}" for p in _ps() if 0 <= function(p) <= top)
        body.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        left, height = legend[0], legend[1] + 18 * place
        body += [_line(left, height, left + 22, height, colour, 2.5), _text(left + 28, height + 4, name)]
    return _svg(title, body)


def _ps() -> list[float]:
    return [LEAST_P + (1 - LEAST_P) * step / 120 for step in range(121)]


def _axes(top: float, unit: str) -> list[str]:
    body = []
    for step in range(6):
        p, value = step / 5, top * step / 5
        body += [
            _text(_x(p), HEIGHT - 24, f"{p:g}", anchor="middle"),
            _line(_x(p), TOP, _x(p), HEIGHT - BOTTOM, "#dee2e6"),
        ]
        body += [_text(LEFT - 8, _y(value, top) + 4, f"{value:g}", anchor="end")]
        body += [_line(LEFT, _y(value, top), WIDTH - RIGHT, _y(value, top), "#dee2e6")]
    return [*body, _text(_x(0.5), HEIGHT - 6, "p", anchor="middle"), _text(8, TOP - 14, unit)]


def _tokens() -> str:
    title = "Two tokens of 1 3 6 -> 17 : 3 * 6 = 18 …"
    body = [_text(20, 22, title, bold=True)]
    for left, head, bars, colour in (
        (20, "the first number: flexible", FLEXIBLE, BLUE),
        (300, "the product: rigid", RIGID, GREY),
    ):
        mass = sum(probability for _, probability in bars[:2])
        verdict = f"top 2: {mass:.3f} {'<' if mass < TAU else '≥'} tau {TAU}"
        body += [_text(left, 52, head), _text(left, 72, verdict)]
        for place, (token, probability) in enumerate(bars):
            top, length = 92 + 34 * place, 160 * probability
            body += [
                _text(left + 24, top + 16, token, anchor="end"),
                f'<rect x="{left + 32}" y="{top}" width="{max(length, 1):.1f}" height="22" fill="{colour}"/>',
                _text(left + 38 + length, top + 16, f"{probability:.3f}"),
            ]
    return _svg(title, body, height=200)


def _x(p: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * p


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / top


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", bold: bool = False) -> str:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight}>{escaped}</text>'


def _svg(title: str, body: Sequence[str], height: int = HEIGHT) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
    head += 'role="img" font-family="sans-serif" font-size="13" fill="#212529">'
    named = f"<title>{title.replace('>', '&gt;')}</title>"
    paper = f'<rect width="{WIDTH}" height="{height}" rx="6" fill="#ffffff"/>'
    return "\n".join([head, named, paper, *body, "</svg>"]) + "\n"


if __name__ == "__main__":
    for name, text in pictures().items():
        (Path(sys.argv[1]) / name).write_text(text, "utf-8")

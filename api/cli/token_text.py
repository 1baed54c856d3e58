"""A held-out sample in the terminal, each token in the colour of what training does with it."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from api.schemas import TokenViewEntry
from service.contract.messages import TokenView

_SHADES = ("black on #ffe8a8", "black on #ffc44d", "black on #f08c1a")
"""From likely to unlikely; readable on dark and on light terminals."""
_PROMPT = "dim"
_GLYPHS = {"\n": "⏎\n", "\t": "⇥\t", " ": " "}


def token_text(view: TokenView) -> RenderableType:
    """The sample behind a line that says what its colours mean."""
    text = Text()
    for place, token in enumerate(view.tokens):
        text.append(_visible(token), style=_style(view, place))
    return Group(_legend(view), text)


def token_views_table(items: Sequence[TokenViewEntry]) -> RenderableType:
    """Which samples were looked at, and after which steps."""
    table = Table(box=None, pad_edge=False)
    for title in ("STAGE", "STEP", "SAMPLE", "TOKENS"):
        table.add_column(title, justify="left" if title == "STAGE" else "right")
    for one in items:
        table.add_row(one.stage, str(one.step), str(one.sample_index), str(one.num_tokens))
    return table if items else Text("no sample was looked at", style="dim")


def is_flexible(view: TokenView, place: int) -> bool:
    """Whether the objective takes a trained token for one that could as well be another."""
    mass = view.topk_masses[place]
    return view.tau is not None and mass is not None and mass < view.tau


def _style(view: TokenView, place: int) -> str:
    prob = view.label_probs[place]
    if prob is None:
        return _PROMPT
    if view.tau is not None and not is_flexible(view, place):
        return ""
    return _SHADES[min(int((1.0 - prob) * len(_SHADES)), len(_SHADES) - 1)]


def _legend(view: TokenView) -> Text:
    trained = [place for place, prob in enumerate(view.label_probs) if prob is not None]
    facts = Text(f"stage {view.stage}, step {view.step}, sample {view.sample_index}: ", style="bold")
    if view.tau is None:
        facts.append(f"{len(trained)} trained tokens")
    else:
        num_flexible = sum(is_flexible(view, place) for place in trained)
        facts.append(f"{num_flexible} of {len(trained)} trained tokens are flexible ")
        facts.append(f"(top-{view.top_k} mass below tau {view.tau:.4f})", style="dim")
    coloured = "trained" if view.tau is None else "flexible"
    legend = Text.assemble(
        ("prompt", _PROMPT),
        "  ",
        *((f" {coloured}, p {share} ", style) for share, style in zip(("high", "medium", "low"), _SHADES, strict=True)),
        "" if view.tau is None else "  rigid",
    )
    return Text("\n").join([facts, legend, Text()])


def _visible(token: str) -> str:
    """The token with line ends to be seen, and nothing in it that could steer the terminal."""
    return "".join(_GLYPHS.get(sign) or (sign if sign.isprintable() else f"\\x{ord(sign):02x}") for sign in token)

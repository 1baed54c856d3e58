"""Tokens in the terminal."""

from io import StringIO

from rich.console import Console

from api.cli.token_text import token_text
from service.contract.messages import TokenView
from tests.factories import make_token_view


def shown(view: TokenView, *, colours: bool = False) -> str:
    console = Console(file=StringIO(), width=160, force_terminal=colours, color_system="truecolor" if colours else None)
    console.print(token_text(view))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_flexible_tokens_are_counted_and_line_ends_are_seen() -> None:
    text = shown(make_token_view())

    assert "stage sft, step 0, sample 0: 1 of 2 trained tokens are flexible (top-2 mass below tau 0.7500)" in text
    assert "a b⏎" in text


def test_only_flexible_tokens_are_coloured() -> None:
    last = shown(make_token_view(tokens=["<P>", "<F>", "<R>"]), colours=True).splitlines()[-1]

    assert last == "\x1b[2m<P>\x1b[0m\x1b[30;48;2;240;140;26m<F>\x1b[0m<R>"


def test_without_tau_every_trained_token_is_coloured_by_its_probability() -> None:
    last = shown(make_token_view(tau=None, tokens=["<P>", "<F>", "<R>"]), colours=True).splitlines()[-1]

    assert "48;2;240;140;26m<F>" in last
    assert "48;2;255;232;168m<R>" in last


def test_tokens_are_neither_markup_nor_orders_to_the_terminal() -> None:
    text = shown(make_token_view(tokens=["[red]", "\x1b[2J", "\r"]))

    assert "[red]\\x1b[2J\\x0d" in text

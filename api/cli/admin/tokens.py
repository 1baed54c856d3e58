"""`sedray token`: API tokens."""

from typing import Annotated

import typer

from api.cli.admin.tables import tokens_table
from api.cli.calling import AsJson, answer, client_of, console, print_json, print_secret
from api.cli.forms import Commands
from service.contract.access import TokenScope

token_app = Commands(help="API tokens: your own, and those that you look after.")
TokenId = Annotated[str, typer.Argument(help="The token's id, as `token ls` shows it.", show_default=False)]
User = Annotated[str | None, typer.Option(help="Whose; left out: your own.")]


@token_app.command("create")
def create_token(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What it is for.", show_default=False)],
    user: User = None,
    scope: Annotated[TokenScope, typer.Option(help="What it may be used for, at most.")] = TokenScope.WRITE,
    project: Annotated[str | None, typer.Option(help="The only project that it opens.")] = None,
    days: Annotated[int, typer.Option(min=1, max=3650, help="Days until it expires.")] = 90,
    forever: Annotated[bool, typer.Option("--forever", help="Valid until it is revoked.")] = False,
    as_json: AsJson = False,
) -> None:
    """Issue a token and print its secret, once."""
    with client_of(context) as client:
        issued = client.tokens.issue(
            name, user=user, scope=scope, project=project, expires_in_days=None if forever else days
        )
        if as_json:
            print_json(issued)
            return
        until = f"until {issued.expires_at:%Y-%m-%d}" if issued.expires_at else "until it is revoked"
        print_secret(issued.secret, f"{issued.id}, {issued.scope.value}, valid {until}; it is not shown again:")


@token_app.command("ls")
def list_tokens(
    context: typer.Context,
    user: User = None,
    ended: Annotated[bool, typer.Option("--ended", help="Revoked and expired ones too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List tokens, without their secrets."""
    with client_of(context) as client:
        page = client.tokens.list(user=user, ended=ended)
        console.print(tokens_table(page.items)) if not as_json else print_json(page)


@token_app.command("revoke")
def revoke_token(context: typer.Context, token_id: TokenId, as_json: AsJson = False) -> None:
    """Make a token useless from now on."""
    with client_of(context) as client:
        token = client.tokens.revoke(token_id)
        answer(token, f"{token.id} ({token.name} of {token.user}) is revoked", as_json)


@token_app.command("rotate")
def rotate_token(
    context: typer.Context,
    token_id: TokenId,
    overlap: Annotated[int, typer.Option(min=0, max=604_800, help="Seconds for which the old one is accepted.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Replace a token by a successor and print its secret, once."""
    with client_of(context) as client:
        issued = client.tokens.rotate(token_id, overlap_s=overlap)
        if as_json:
            print_json(issued)
            return
        print_secret(issued.secret, f"{issued.id} takes the place of {token_id}; it is not shown again:")

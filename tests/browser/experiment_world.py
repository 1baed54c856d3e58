"""An experiment that has gone through all: SFT with SED over two attempts, then RL, with texts that attack the page."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from math import exp, nan, sin
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from service import attempts, log_store, metric_store, reporting
from service.contract.messages import LogLine, MetricColumns, Progress
from service.contract.status import EndReason
from service.settings import ServiceSettings
from service.storage.tables import Attempt
from tests.factories import (
    NOW,
    experiment_of,
    make_attempt,
    make_experiment,
    make_report,
    make_run_event,
    make_stage_result,
    make_token_view,
    spec_body,
)
from tests.rollout_files import RL, SPEC, write_steps

ATTACK = '<img src=x onerror="window.attacked=1"><script>window.attacked=1</script>'
SFT_STEPS = 2_000
RESUMED_AT = 1_200
SPIKE_AT = 1_501
RL_STEPS = 9
SED = {**spec_body()["sft"], "objective": {"type": "sed"}, "holdout_fraction": 0.1}


async def make_world(session: AsyncSession, settings: ServiceSettings) -> Attempt:
    """The second attempt, which is in RL; the first one was lost in SFT."""
    experiment = await make_experiment(session, name=f"sed {ATTACK}", sft=SED, rl=RL, tags=["countdown"])
    first = await make_attempt(session, experiment)
    await reporting.take_report(session, first, make_report(progress=progress("sft", "training", RESUMED_AT + 50)))
    await metric_store.append_columns(session, first, sft_series(range(1, RESUMED_AT + 50)))
    await attempts.end_attempt(session, first, EndReason.ACTOR_DIED, "the trainer was lost", {})
    await attempts.release(session, first, NOW)
    second = await make_attempt(session, await experiment_of(session, first))
    views = [make_token_view(step, tokens=["a", f" {ATTACK}", "\n"]) for step in (0, SFT_STEPS)]
    resumed = make_run_event("resumed", message=f"stage sft goes on after step {RESUMED_AT}", detail={"stage": "sft"})
    calibrated = {"tau": 0.75, "top_k": 2, "mask_ratio": 0.7, "low": 0.0, "high": 1.0, "counts": [1, 2, 3, 14]}
    told = [resumed, make_run_event("tau_calibrated", message="tau is 0.75", detail=calibrated)]
    told.append(make_run_event("engine_replaced", message=f"rollout engine 0 was replaced: {ATTACK}"))
    report = make_report(events=told, token_views=views, progress=progress("rl", "generating", RL_STEPS))
    await reporting.take_report(session, second, report)
    await metric_store.append_columns(session, second, sft_series(range(RESUMED_AT, SFT_STEPS + 1)))
    await metric_store.append_columns(session, second, rl_series(range(1, RL_STEPS + 1)))
    await attempts.record_stage_result(session, second, make_stage_result("sft", finished_at=datetime.now(UTC)))
    lines = [LogLine(ts=NOW, source="driver", text=f"line {number}") for number in range(1_200)]
    await log_store.append_lines(session, second, [*lines, LogLine(ts=NOW, source="Trainer:7", text=f"odd {ATTACK}")])
    write_steps(settings.output_dir(experiment.id), range(1, RL_STEPS + 1), SPEC)
    write_model(Path(settings.output_dir(experiment.id)))
    return second


def progress(stage: str, phase: str, step: int) -> Progress:
    """Of 2,000 steps."""
    body: dict[str, Any] = {"stage": stage, "phase": phase, "step": step, "num_steps": SFT_STEPS, "since": NOW}
    return Progress.model_validate(body)


def columns(name: str, steps: Sequence[int], values: Sequence[float]) -> MetricColumns:
    """A step a second."""
    times: list[datetime] = [NOW + timedelta(seconds=step) for step in steps]
    return MetricColumns(name=name, steps=list(steps), ts=times, values=list(values))


def sft_series(steps: range) -> list[MetricColumns]:
    """The loss falls, once it is no number, and at one step alone it is 9."""
    loss = [9.0 if step == SPIKE_AT else nan if step == 700 else 0.5 + 2 * exp(-step / 300) for step in steps]
    fractions = [0.3 + 0.02 * sin(step / 40) for step in steps]
    return [
        columns("sft/loss", steps, loss),
        columns("sft/num_tokens", steps, [100.0] * len(steps)),
        columns("sft/sed/penalised_fraction", steps, fractions),
        columns("sft/grad_norm", steps, [1.0] * len(steps)),
        columns("sft/epoch", steps, [step / 500 for step in steps]),
    ]


def rl_series(steps: range) -> list[MetricColumns]:
    """Rewards rise; a step takes a second and a half."""
    constant = {"timing_s/step": 1.5, "timing_s/gen": 0.9, "timing_s/update_actor": 0.4, "timing_s/update_weights": 0.1}
    return [
        columns("reward/mean", steps, [step / 100 for step in steps]),
        columns("training/num_tokens", steps, [1000.0 * step for step in steps]),
        *(columns(name, steps, [value] * len(steps)) for name, value in constant.items()),
    ]


def write_model(output_dir: Path) -> None:
    """A checkpoint and an exported model, as the trainer leaves them."""
    checkpoint, model = output_dir / "checkpoints" / "sft" / "step-00002000", output_dir / "models" / "sft"
    for folder in (checkpoint, model):
        folder.mkdir(parents=True)
    (checkpoint / "tensors-00000.bin").write_bytes(b"\0" * 4096)
    (checkpoint / "manifest.json").write_text("{}")
    (model / "config.json").write_text('{"model_type": "qwen2"}')
    (model / "model.safetensors").write_bytes(b"\1" * 2048)

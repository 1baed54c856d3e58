"""What drivers and the service exchange survives JSON."""

import math

import pytest
from pydantic import ValidationError

from service.contract.messages import SERVICE_EVENT_KINDS, StageResult, WorkerReport
from service.contract.metric_names import METRICS, describe_metric
from tests.factories import make_run_event, make_stage_result, make_token_view


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.1])
def test_every_float_survives_json(value: float) -> None:
    result = make_stage_result(metrics={"x": value})
    back = StageResult.model_validate_json(result.model_dump_json()).metrics["x"]
    assert back == value or (math.isnan(back) and math.isnan(value))


def test_an_empty_report_is_a_heartbeat() -> None:
    assert WorkerReport.model_validate_json('{"seq": 1}').points == []


def test_a_token_view_has_one_value_per_token() -> None:
    with pytest.raises(ValidationError, match="one entry per token"):
        make_token_view(weights=[None])


@pytest.mark.parametrize("kind", sorted(SERVICE_EVENT_KINDS))
def test_a_driver_cannot_write_the_services_own_events(kind: str) -> None:
    with pytest.raises(ValidationError, match="the service alone"):
        make_run_event(kind)


def test_an_events_detail_is_bounded() -> None:
    with pytest.raises(ValidationError, match="shorten it"):
        make_run_event(detail={"text": "x" * 20_000})


def test_metric_names_are_unique() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)


@pytest.mark.parametrize(
    ("name", "registered"),
    [
        ("sft/loss", "sft/loss"),
        ("eval/test/pass@8", "eval/{set}/pass@{k}"),
        ("eval/my-set_2/avg@16", "eval/{set}/avg@{k}"),
        ("eval/test/pass@x", None),
        ("loss", None),
    ],
)
def test_a_concrete_name_finds_its_entry(name: str, registered: str | None) -> None:
    metric = describe_metric(name)
    assert (metric.name if metric else None) == registered

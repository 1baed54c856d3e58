"""What an experiment may say about when it runs."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from tests.factories import make_spec


def test_a_time_is_read_from_text_and_needs_its_zone() -> None:
    spec = make_spec(scheduling={"not_before": "2026-05-01T22:00:00+02:00"})
    assert spec.scheduling.not_before == datetime(2026, 5, 1, 20, tzinfo=UTC)
    with pytest.raises(ValidationError, match="timezone"):
        make_spec(scheduling={"not_before": "2026-05-01T22:00:00"})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, False),
        ({"priority": "backfill"}, True),
        ({"priority": "low", "scheduling": {"preemptible": False}}, False),
        ({"scheduling": {"preemptible": True}}, True),
    ],
)
def test_low_classes_may_be_stopped_unless_they_say_otherwise(changes: dict[str, Any], expected: bool) -> None:
    assert make_spec(**changes).is_preemptible is expected


@pytest.mark.parametrize(
    "wishes",
    [
        {"after": ["a", "a"]},
        {"limits": [{"group": "g", "max_running": 1}, {"group": "g", "max_running": 2}]},
        {"limits": [{"group": "No spaces", "max_running": 1}]},
        {"on_failed_dependency": "retry"},
    ],
)
def test_contradictions_are_refused(wishes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make_spec(scheduling=wishes)


def test_a_kind_of_gpu_needs_a_gpu() -> None:
    with pytest.raises(ValidationError, match="ask for a GPU"):
        make_spec(resources={"trainer": {"gpu_types": ["H100"]}})

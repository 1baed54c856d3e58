"""What may be amended in a study, and what is locked."""

from typing import Any

import pytest
from pydantic import ValidationError

from service.contract.study_changes import AmendmentKind, StudyChange


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"add_sft_seeds": [3]}, AmendmentKind.ADD_SEEDS),
        ({"add_arms": [{"name": "dft"}]}, AmendmentKind.ADD_ARMS),
        ({"budget": {"max_gpu_hours": 2.0}}, AmendmentKind.CHANGE_BUDGET),
        ({"max_running": None}, AmendmentKind.CHANGE_BUDGET),
    ],
)
def test_an_amendment_is_of_one_kind(body: dict[str, Any], kind: AmendmentKind) -> None:
    assert StudyChange.model_validate({"reason": "why", **body}).kind is kind


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"baseline": "sed"}, r"baseline is locked: what decides was stated before the first run.*another study"),
        ({"base": {}}, "base is locked"),
        ({"arms": []}, "new ones go under add_arms"),
        ({"primary": {}}, "primary is locked"),
        ({"sft_seeds": [1]}, "exclude it with a reason"),
        ({}, "it changes nothing"),
        ({"add_sft_seeds": [3], "max_running": 2}, "it has add_seeds and change_budget"),
    ],
)
def test_what_is_locked_is_refused_with_its_reason(body: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        StudyChange.model_validate({"reason": "why", **body})


def test_a_change_without_a_reason_is_refused() -> None:
    with pytest.raises(ValidationError, match="reason"):
        StudyChange.model_validate({"add_sft_seeds": [3]})

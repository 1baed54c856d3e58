"""The paper's preset of SED, and which objectives hold a second model."""

from typing import Any, get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from service.contract.objectives import ObjectiveSpec, SedObjective, needs_reference_model

OBJECTIVE = TypeAdapter[Any](ObjectiveSpec)


def test_the_preset_stands_for_the_settings_of_the_paper() -> None:
    made = OBJECTIVE.validate_python({"type": "sed", "preset": "paper"})
    assert (made.lambda_, made.top_k, made.mask, made.mask_ratio, made.tau) == (1.0, 2, "topk", 0.7, None)


def test_the_preset_lets_its_own_values_and_what_the_paper_leaves_open_be_given() -> None:
    made = SedObjective(preset="paper", lambda_=1.0, top_k=2, calibration_samples=7)
    assert made.calibration_samples == 7


def test_the_preset_survives_the_canonical_form() -> None:
    made = SedObjective(preset="paper")
    assert '"preset":"paper"' in made.model_dump_json()
    assert OBJECTIVE.validate_json(made.model_dump_json()) == made


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"lambda": 0.2}, r"lambda 0\.2 \(paper: 1\.0\)"),
        ({"top_k": 10}, r"top_k 10 \(paper: 2\)"),
        ({"mask": "none"}, r"mask none \(paper: topk\)"),
        ({"mask_ratio": 0.3}, r"mask_ratio 0\.3 \(paper: 0\.7\)"),
        ({"tau": 0.95}, r"tau 0\.95 \(paper: calibrated\)"),
    ],
)
def test_a_setting_that_contradicts_the_preset_is_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        OBJECTIVE.validate_python({"type": "sed", "preset": "paper"} | setting)


def test_three_objectives_hold_a_reference() -> None:
    required = {"power": {"q": 0.5}, "entropy_regularised": {"lambda": 0.1}}
    names = [get_args(member.model_fields["type"].annotation)[0] for member in get_args(get_args(ObjectiveSpec)[0])]
    specs = [OBJECTIVE.validate_python({"type": name} | required.get(name, {})) for name in names]
    assert [spec.type for spec in specs if needs_reference_model(spec)] == ["asft", "gift", "eksft"]

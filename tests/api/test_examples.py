"""The examples and the lines of the README are accepted by the contract."""

from pathlib import Path

import pytest

from api.cli.spec_files import apply_overrides, load_spec
from service.contract.spec import ExperimentSpec

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.parametrize("overrides", [[], ["sft.objective={type: ce}", "seed=7"], ["sft=null"]])
def test_the_countdown_example_is_valid(overrides: list[str]) -> None:
    spec = load_spec(EXAMPLES / "countdown" / "sed.yaml")
    apply_overrides(spec, overrides)

    assert ExperimentSpec.model_validate(spec).rl is not None

"""What an import of another system's configuration asks and answers."""

from typing import Any, Literal, Self

from pydantic import Field, JsonValue, model_validator

from service.contract.strict_model import WireModel

ForeignSystem = Literal["trl", "verl"]
Outcome = Literal["taken", "default", "assumed", "not_needed", "no_equivalent", "unknown"]
"""`taken`: it became a field. `default`: the file says nothing, and the other system's own default became a field.
`assumed`: no configuration says it, so something was chosen. `not_needed`: how, not what, or what happens anyway.
`no_equivalent`: it has an effect there that it does not have here. `unknown`: no option that is known."""


class ForeignConfig(WireModel):
    """One configuration file as an object."""

    name: str = Field(default="config", max_length=400)
    """Of the file; told with each of its settings."""
    settings: dict[str, JsonValue] | list[str]
    """Its keys and values; or, as Hydra keeps them, overrides such as `trainer.total_epochs=3`."""


class ImportRequest(WireModel):
    """Configurations to read, and what they do not say."""

    system: ForeignSystem
    configs: list[ForeignConfig] = Field(min_length=1, max_length=2)
    """One of a stage each: two of TRL's, or two of verl's, become one experiment."""
    num_devices: int | None = Field(default=None, ge=1, le=1024)
    """TRL: processes that accelerate starts, one a GPU. verl says so itself."""
    num_rl_rows: int | None = Field(default=None, ge=1)
    """Rows of the RL data: turns epochs into steps."""
    overrides: dict[str, JsonValue] = {}
    """Fields of the specification by dotted keys, set last."""


class ImportedSetting(WireModel):
    """What became of one option."""

    file: str
    key: str
    value: JsonValue
    """As the file has it, or the other system's default; secrets are starred out."""
    outcome: Outcome
    field: str | None = None
    """Of the specification."""
    becomes: JsonValue = None
    reason: str = ""
    remedy: str = ""
    """What to do, where something is to be done."""


class UntouchedField(WireModel):
    """A field that nothing in the files speaks of."""

    field: str
    value: JsonValue


class ImportFinding(WireModel):
    """Why the specification is not valid as it is."""

    field: str
    problem: str
    hint: str | None = None


class ConfigImport(WireModel):
    """The specification, and what became of every option. Nothing was stored, no file was looked at."""

    spec: dict[str, Any]
    spec_yaml: str
    """The same to be saved, headed by what has no equivalent."""
    settings: list[ImportedSetting]
    left_at_default: list[UntouchedField]
    """Only of a valid specification."""
    problems: list[ImportFinding]
    is_valid: bool

    @model_validator(mode="after")
    def _valid_without_problems(self) -> Self:
        if self.is_valid == bool(self.problems):
            raise ValueError("a specification is valid if and only if it has no problems")
        return self

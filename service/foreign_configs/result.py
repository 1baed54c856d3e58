"""From configurations to the answer: which tables read them, whether the result is valid, and as YAML."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import yaml
from pydantic import ValidationError

from service.contract.imports import (
    ConfigImport,
    ForeignConfig,
    ForeignSystem,
    ImportedSetting,
    ImportFinding,
    ImportRequest,
    UntouchedField,
)
from service.contract.spec import ExperimentSpec
from service.contract.stages import StageName
from service.contract.strict_model import describe_errors
from service.contract.studies import with_overrides
from service.foreign_configs.flattening import UnreadableConfig, flattened
from service.foreign_configs.reading import Reading
from service.foreign_configs.trl import read_trl_rl, read_trl_sft, trl_stage
from service.foreign_configs.verl import read_verl_rl, read_verl_sft, verl_stage

_STAGE_OF = {"trl": trl_stage, "verl": verl_stage}
_READER_OF: dict[tuple[ForeignSystem, StageName], Callable[[Reading, ImportRequest], None]] = {
    ("trl", "sft"): read_trl_sft,
    ("trl", "rl"): read_trl_rl,
    ("verl", "sft"): read_verl_sft,
    ("verl", "rl"): read_verl_rl,
}


class _Dumper(yaml.SafeDumper):
    """Equal parts are written out: people read them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_ORDER = ("name", "project", "description", "tags", "seed", "model", "sft", "rl", "evaluation", "resources", "mirrors")


def read_configs(request: ImportRequest) -> ConfigImport:
    """The specification that runs what the configurations would run, as far as it can be said here.

    Raises UnreadableConfig.
    """
    body: dict[str, Any] = {}
    settings: list[ImportedSetting] = []
    for _, stage, config in _by_stage(request):
        reading = Reading(config.name, flattened(config.settings), body)
        _read(request, stage, reading)
        reading.finish()
        settings += reading.entries
    body = _ordered(_overridden(body, request.overrides))
    problems = list(_problems(body))
    return ConfigImport(
        spec=body,
        spec_yaml=_as_yaml(request, body, settings, problems),
        settings=settings,
        left_at_default=[] if problems else list(_untouched(body)),
        problems=problems,
        is_valid=not problems,
    )


def stage_of(system: ForeignSystem, settings: Mapping[str, Any]) -> StageName | None:
    """Of which stage a table of options speaks; None where it is no configuration of that system."""
    return _STAGE_OF[system](settings)


def _read(request: ImportRequest, stage: StageName, reading: Reading) -> None:
    try:
        _READER_OF[request.system, stage](reading, request)
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
        if isinstance(error, UnreadableConfig):
            raise
        last = f" after {reading.entries[-1].key}" if reading.entries else ""
        raise UnreadableConfig(f"an option{last} holds what {request.system} itself would refuse: {error}") from error


def _by_stage(request: ImportRequest) -> list[tuple[int, StageName, ForeignConfig]]:
    """SFT first: RL goes on from it."""
    found: list[tuple[int, StageName, ForeignConfig]] = []
    for config in request.configs:
        stage = stage_of(request.system, flattened(config.settings))
        if stage is None:
            raise UnreadableConfig(
                f"{config.name} has no option that tells {request.system} configurations of SFT and RL apart from "
                "anything else; give the file that the run was started with"
            )
        found.append((("sft", "rl").index(stage), stage, config))
    stages = [stage for _, stage, _ in found]
    if len(set(stages)) < len(stages):
        raise UnreadableConfig(f"there are {len(stages)} configurations for {stages[0]}; an experiment has one of each")
    return sorted(found, key=lambda one: one[0])


def _overridden(body: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return with_overrides(body, overrides) if overrides else body
    except ValueError as error:
        raise UnreadableConfig(f"overrides: {error}") from error


def _ordered(body: Mapping[str, Any]) -> dict[str, Any]:
    first = {key: body[key] for key in _ORDER if key in body}
    return first | {key: value for key, value in body.items() if key not in first}


def _problems(body: Mapping[str, Any]) -> Iterator[ImportFinding]:
    try:
        ExperimentSpec.model_validate(body)
    except ValidationError as error:
        for found in describe_errors(error, ExperimentSpec):
            yield ImportFinding(**found)


def _untouched(body: Mapping[str, Any]) -> Iterator[UntouchedField]:
    spec = ExperimentSpec.model_validate(body).model_dump(mode="json", by_alias=True)
    for field, value in _leaves(spec):
        if not _mentions(body, field):
            yield UntouchedField(field=field, value=value)


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _mentions(body: Mapping[str, Any], field: str) -> bool:
    node: Any = body
    for part in field.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return False
        node = node[part]
    return True


def _as_yaml(
    request: ImportRequest, body: Mapping[str, Any], settings: list[ImportedSetting], problems: list[ImportFinding]
) -> str:
    heads = [f"Imported from {request.system}: {', '.join(config.name for config in request.configs)}"]
    for one in settings:
        if one.outcome in ("no_equivalent", "unknown", "assumed"):
            heads.append(f"{one.outcome.replace('_', ' ')}: {one.key} = {one.value!r}: {one.reason}")
            heads += [f"    {one.remedy}"] if one.remedy and one.outcome != "unknown" else []
    heads += [f"not valid yet: {problem.field}: {problem.problem}" for problem in problems]
    comments = "".join(f"# {' '.join(line.splitlines()) if line.strip() else ''}\n" for line in heads)
    return comments + yaml.dump(dict(body), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)

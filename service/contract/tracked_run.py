"""A run as other trackers know one: parameters and tags, the same in a live mirror and in a later export."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from service.contract.spec import ExperimentSpec

EXPERIMENT_TAG = "sedray.experiment_id"
"""By which a run in another tracker is found again."""


def run_parameters(spec: ExperimentSpec) -> dict[str, str]:
    """Every field of the specification by its dotted name, defaults filled in."""
    body = spec.model_dump(mode="json", by_alias=True, exclude={"mirrors", "description", "tags"})
    return {name: _as_text(value) for name, value in _leaves(body)}


def run_tags(experiment_id: str, spec: ExperimentSpec) -> dict[str, str]:
    """What a run is looked for by."""
    objective = spec.sft.objective.type if spec.sft else None
    found = {
        EXPERIMENT_TAG: experiment_id,
        "sedray.project": spec.project,
        "sedray.tags": ",".join(spec.tags) or None,
        "sedray.objective": objective,
        "sedray.spec_sha256": spec.sha256(),
    }
    return {name: value for name, value in found.items() if value is not None}


def mlflow_name(name: str) -> str:
    """As MLflow takes it: letters, digits and `_-./: `, 250 of them; `pass@8` becomes `pass_at_8`."""
    return re.sub(r"[^\w\-./: ]", "_", name.replace("@", "_at_"), flags=re.ASCII)[:250]


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        elif isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
            yield from _leaves({str(number): one for number, one in enumerate(value)}, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _as_text(value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case list():
            return ",".join(map(str, value))
        case _:
            return str(value)

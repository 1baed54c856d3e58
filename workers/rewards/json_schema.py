"""The reward for JSON that fits a schema."""

import json
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Registry

from service.contract.gold_answers import parse_json_schema_gold
from service.contract.rewards import JsonSchemaReward
from workers.config_error import ConfigError
from workers.rewards.samples import GoldUnreadable, RewardSample


class JsonSchemaVerifier:
    """The completion is JSON and fits the specification's schema, or its row's own."""

    def __init__(self, spec: JsonSchemaReward) -> None:
        """Raises ConfigError if the specification's schema is none."""
        self._validator: Validator | None = None
        if spec.json_schema is not None:
            try:
                self._validator = _validator(spec.json_schema)
            except SchemaError as error:
                raise ConfigError(f"reward.json_schema is no JSON Schema: {error.message}") from error

    def score(self, sample: RewardSample) -> float:
        """1.0 or 0.0. NaN and infinities are no JSON."""
        validator = self._validator or _gold_validator(sample.answer)
        try:
            value = json.loads(sample.completion, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return 0.0
        return 1.0 if validator.is_valid(value) else 0.0


def _validator(schema: dict[str, Any]) -> Validator:
    kind = validator_for(schema, default=Draft202012Validator)
    kind.check_schema(schema)
    # A registry of our own fetches nothing: a schema that refers to an address fails instead of calling there.
    return kind(schema, registry=Registry())


@lru_cache(maxsize=1024)
def _gold_validator(text: str) -> Validator:
    try:
        return _validator(parse_json_schema_gold(text))
    except ValueError as error:
        raise GoldUnreadable(str(error)) from error
    except SchemaError as error:
        raise GoldUnreadable(f"gold answer {text[:80]!r} is no JSON Schema: {error.message}") from error


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")

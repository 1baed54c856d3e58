"""JSON Schema of `ExperimentSpec`, for editors and for people: `python -m service.contract.json_schema [path]`."""

import json
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from service.contract.field_docs import describe_fields
from service.contract.spec import ExperimentSpec

DEFAULT_PATH = Path("docs/experiment.schema.json")


def experiment_schema() -> dict[str, Any]:
    """What a submitted body may look like: defaults may be left out."""
    schema = ExperimentSpec.model_json_schema(mode="validation", by_alias=True)
    describe_fields(schema, ExperimentSpec)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def schema_text() -> str:
    """The schema as the checked-in file holds it."""
    return json.dumps(experiment_schema(), indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> None:
    """Writes the schema to the path that is given, else to `docs/experiment.schema.json`."""
    parser = ArgumentParser(description="Write the JSON Schema of specifications.")
    parser.add_argument("path", type=Path, nargs="?", default=DEFAULT_PATH)
    path: Path = parser.parse_args(arguments).path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(schema_text(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

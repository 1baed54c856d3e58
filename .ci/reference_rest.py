"""The page of the REST interface, from the OpenAPI document."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from fastapi import FastAPI
from pydantic import SecretStr
from reference_cells import Node, cell, code, default, kind, limits, name_of

from api.app import create_app
from api.problems import MEDIA_TYPE, STATUS_OF
from service.settings import ApiSettings

_INTRODUCTION = """# REST

`Authorization: Bearer sr_…` with every request. The service tells the same as OpenAPI at `/openapi.json`, to generate
clients from. Answers that are not 2xx are problem documents (RFC 9457): `code` is stable, `errors` lists every finding.
"""


def rest_reference() -> str:
    """Operations by tag, then the codes that a status may carry."""
    document = _document()
    by_tag: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            text = _operation(f"{method.upper()} {path}", operation)
            by_tag.setdefault(operation["tags"][0], []).extend(text)
    lines = [_INTRODUCTION]
    for tag in sorted(by_tag):
        lines += [f"## {tag.capitalize()}", "", *by_tag[tag]]
    return "\n".join([*lines, *_codes()]).rstrip() + "\n"


def _document() -> Node:
    """Of an app that no request reaches."""
    with tempfile.TemporaryDirectory() as folder:
        key = Path(folder) / "key"
        key.write_bytes(bytes(32))
        unused = SecretStr("postgresql+psycopg://nobody@localhost/none")
        app: FastAPI = create_app(ApiSettings(database_url=unused, secret_key_file=key, output_root=folder))
        return app.openapi()


def _operation(title: str, operation: Node) -> Iterator[str]:
    yield from (f"### `{title}`", "", f"**{operation['summary']}.** (`{operation['operationId']}`)", "")
    if text := operation.get("description"):
        yield from (text, "")
    if "requestBody" in operation:
        bodies = [
            f"{_type(one.get('schema', {}))} as {code(form)}"
            for form, one in operation["requestBody"]["content"].items()
        ]
        yield from (f"Body: {', '.join(bodies)}.", "")
    if parameters := operation.get("parameters"):
        yield from ("| parameter | in | type | default | |", "|---|---|---|---|---|")
        yield from (_parameter(one) for one in parameters)
        yield ""
    yield from (f"Answers: {'; '.join(_answers(operation['responses']))}.", "")


def _parameter(one: Node) -> str:
    schema = one["schema"]
    text = one.get("description") or schema.get("description")
    shown = default(schema, required=one["required"])
    return f"| {code(one['name'])} | {one['in']} | {_type(schema)}{limits(schema)} | {shown} | {cell(text)} |"


def _answers(responses: Node) -> Iterator[str]:
    problems = [status for status, answer in responses.items() if MEDIA_TYPE in answer.get("content", {})]
    for status in sorted(set(responses) - set(problems)):
        kinds = [
            _type(one["schema"]) if form == "application/json" and one.get("schema") else code(form)
            for form, one in responses[status].get("content", {}).items()
        ]
        text = responses[status]["description"]
        words = "" if text == "Successful Response" else f" ({cell(text)})"
        yield f"**{status}** {', '.join(kinds) or 'without a body'}{words}"
    if problems:
        yield f"problems {', '.join(f'[{status}](#problems)' for status in sorted(problems))}"


def _type(schema: Node) -> str:
    """Names of answers are those of the OpenAPI document; they have no place on this page."""
    if "$ref" in schema:
        return code(name_of(schema["$ref"]))
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_type(one) for one in schema[key]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return kind(schema)


def _codes() -> Iterator[str]:
    yield from ("## Problems", "", "| status | codes; remedies: [errors.md](errors.md#problems) |", "|---|---|")
    by_status: dict[int, list[str]] = {}
    for error, status in STATUS_OF.items():
        by_status.setdefault(status, []).append(code(error.code))
    yield from (f"| {status} | {', '.join(codes)} |" for status, codes in sorted(by_status.items()))

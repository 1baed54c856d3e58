"""The text under a field in the source, for the JSON Schema: what people read in an editor and beside a form.

pydantic can do this itself (`use_attribute_docstrings`), but for every class at every import, also of each command.
"""

import ast
import inspect
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any

from service.contract.strict_model import StrictModel


def describe_fields(schema: dict[str, Any], root: type[StrictModel]) -> None:
    """Puts a description on each property of the schema and of its definitions that has a text in the source."""
    models = {model.__name__: model for model in _models(StrictModel)}
    for name, node in {root.__name__: schema, **schema.get("$defs", {})}.items():
        if name in models:
            _describe(node.get("properties", {}), models[name])


def _describe(properties: dict[str, Any], model: type[StrictModel]) -> None:
    texts = _texts(model)
    for name, field in model.model_fields.items():
        node = properties.get(field.alias or name)
        if node is not None and name in texts:
            node.setdefault("description", texts[name])


def _models(base: type[StrictModel]) -> Iterator[type[StrictModel]]:
    for model in base.__subclasses__():
        yield model
        yield from _models(model)


def _texts(model: type[StrictModel]) -> dict[str, str]:
    """Its own and inherited ones."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, StrictModel) and base is not StrictModel:
            found |= _in_module(base.__module__).get(base.__name__, {})
    return found


@cache
def _in_module(name: str) -> dict[str, dict[str, str]]:
    """By class and field: the string that stands behind a field."""
    tree = ast.parse(inspect.getsource(sys.modules[name]))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return {one.name: dict(_behind_fields(one.body)) for one in classes}


def _behind_fields(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for field, behind in pairwise(body):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if isinstance(behind, ast.Expr) and isinstance(behind.value, ast.Constant):
            text = behind.value.value
            if isinstance(text, str):
                yield field.target.id, " ".join(inspect.cleandoc(text).split())

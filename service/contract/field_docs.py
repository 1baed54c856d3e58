"""Descriptions of fields, read from the text that stands under them in the source, when a schema is asked for.

Pydantic can do this while classes are made (`use_attribute_docstrings`), which every start of a command would pay for.
"""

import ast
import inspect
import sys
from functools import cache
from itertools import pairwise
from typing import Any


def describe_fields(schema: dict[str, Any], model: type) -> None:
    """Puts descriptions into the JSON Schema of a model; those that are there stay."""
    texts = {name: text for base in reversed(model.__mro__) for name, text in _texts(base).items()}
    fields = getattr(model, "model_fields", {})
    by_key = {(field.alias or name): name for name, field in fields.items()}
    for key, described in schema.get("properties", {}).items():
        if text := texts.get(by_key.get(key, key)):
            described.setdefault("description", text)


def _texts(model: type) -> dict[str, str]:
    return _texts_of_module(model.__module__).get(model.__qualname__, {})


@cache
def _texts_of_module(name: str) -> dict[str, dict[str, str]]:
    """Class, field, text; nothing for a module whose source is not there."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[name]))
    except (KeyError, OSError, TypeError):
        return {}
    return {node.name: _texts_in(node) for node in tree.body if isinstance(node, ast.ClassDef)}


def _texts_in(node: ast.ClassDef) -> dict[str, str]:
    return {
        field.target.id: inspect.cleandoc(below.value.value)
        for field, below in pairwise(node.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }

"""What a driver sends, made storable: PostgreSQL's JSON knows no NaN and its text no NUL character."""

import math
from typing import Any

from pydantic import BaseModel


def storable_text(text: str) -> str:
    """The text with NUL and lone surrogates replaced by U+FFFD."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def storable_model(model: BaseModel) -> dict[str, Any]:
    """A model's JSON form; NaN and infinities become the strings that the contract's models read back."""
    stored = storable_value(model.model_dump(mode="json"))
    assert isinstance(stored, dict)
    return stored


def storable_value(value: Any) -> Any:
    """The same for any JSON value."""
    match value:
        case str():
            return storable_text(value)
        case float() if not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case dict():
            return {storable_text(str(key)): storable_value(item) for key, item in value.items()}
        case list() | tuple():
            return [storable_value(item) for item in value]
        case _:
            return value

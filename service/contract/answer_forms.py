"""Where a gold answer stands in what a data set keeps under its key. Standard library only."""

from typing import Any, assert_never

from service.contract.data import AnswerForm

_BOX = "\\boxed"


def gold_text(value: Any, form: AnswerForm) -> Any:
    """The gold answer as text; what is no text already is left for the reader to refuse.

    Raises ValueError, to be read after the key's name, if the answer does not stand where the form says.
    """
    match form:
        case "text":
            return value
        case "number":
            return _number(value)
        case "first_of_list":
            if not isinstance(value, list) or not value:
                raise ValueError("is no list with something in it")
            return value[0]
        case "after_hashes":
            return _after_hashes(value)
        case "last_boxed":
            return last_boxed(value) if isinstance(value, str) else value
        case _:
            assert_never(form)


def last_boxed(text: str) -> str:
    """What the last `\\boxed{…}` of a text holds; some authors write `\\boxed 7$` without braces.

    Raises ValueError if there is none, or its brace is not closed.
    """
    _, box, rest = text.rpartition(_BOX)
    if not box:
        raise ValueError("holds no \\boxed{…}")
    if not rest.startswith("{"):
        return rest.partition("$")[0].strip()
    depth = 0
    for place, sign in enumerate(rest):
        if sign in "{}" and rest[place - 1] != "\\":
            depth += 1 if sign == "{" else -1
        if not depth:
            return rest[1:place]
    raise ValueError("has a last \\boxed{ that is not closed")


def _number(value: Any) -> Any:
    """27.0 is 27: tables keep whole numbers as decimals where a column has both."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return str(int(value)) if float(value).is_integer() else repr(value)


def _after_hashes(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    _, hashes, answer = value.rpartition("####")
    if not hashes:
        raise ValueError("holds no ####")
    return answer.strip().replace(",", "")

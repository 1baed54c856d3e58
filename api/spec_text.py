"""A specification as YAML text: its content, and where in the text each value stands.

Positions count lines and columns from 0, as editors do. Anchors may make a small text stand for a huge one, so the
number of values and their depth are bounded before anything is built.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

MAX_VALUES = 20_000
MAX_DEPTH = 50
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_UNREADABLE = (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""PyYAML's constructors break on odd tags, such as `!!bool x`, with whatever they stumble over."""
Kind = Literal["scalar", "block", "flow"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a value stands."""

    kind: Kind
    """`flow` is what stands in brackets or braces."""
    key_line: int
    """Of its key; without one, of itself."""
    line: int
    column: int
    end_line: int
    """The last line with something of it."""
    end_column: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TextProblem:
    """What is wrong with the text itself, or looks so."""

    line: int
    field: str
    problem: str
    hint: str


@dataclass(slots=True)
class SpecText:
    """The text, read."""

    body: Any = None
    places: dict[str, Place] = field(default_factory=dict)
    """By dotted path; the whole is the empty path."""
    problems: list[TextProblem] = field(default_factory=list)
    """With any of them the body is None."""

    def line_of(self, path: str) -> int:
        """Of the key at the path, or of the nearest part around it that is there."""
        parts = path.split(".")
        for length in range(len(parts), 0, -1):
            place = self.places.get(".".join(parts[:length]))
            if place is not None:
                return place.key_line
        return 0


def read_spec_text(text: str) -> SpecText:
    """Never raises: what is wrong stands among the problems."""
    found = SpecText()
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if isinstance(node, yaml.MappingNode):
            _Walk(found).visit(node, "", node.start_mark.line, 0)
        else:
            hint = "write keys with values, such as `name: my-experiment`"
            found.problems.append(TextProblem(line=0, field="(body)", problem="no object with keys", hint=hint))
        if not found.problems:
            # As it would be submitted: JSON knows neither dates nor numbers as keys, nor NaN.
            found.body = json.loads(json.dumps(yaml.safe_load(text), default=str, allow_nan=False))
    except yaml.MarkedYAMLError as error:
        found.problems.append(_broken(error))
    except _UNREADABLE as error:
        found.problems.append(TextProblem(line=0, field="(body)", problem=f"cannot be read: {error}", hint=""))
    return found


@dataclass(slots=True)
class _Walk:
    """One walk over the composed text."""

    found: SpecText
    num_values: int = 0

    def visit(self, node: yaml.Node, path: str, key_line: int, depth: int) -> int:
        """Notes the place of the value and of all within; returns its last line. Raises ValueError beyond bounds."""
        self.num_values += 1
        if self.num_values > MAX_VALUES or depth > MAX_DEPTH:
            raise ValueError(f"more than {MAX_VALUES} values, or nested deeper than {MAX_DEPTH}")
        last = node.start_mark.line
        for key, line, child in self._children(node, path):
            last = max(last, self.visit(child, key, line, depth + 1))
        is_block = isinstance(node, yaml.CollectionNode) and not node.flow_style
        end = (last, 0) if is_block else (node.end_mark.line, node.end_mark.column)
        if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
            end = (max(node.start_mark.line, node.end_mark.line - 1), 0)
        kind: Kind = "scalar" if isinstance(node, yaml.ScalarNode) else "block" if is_block else "flow"
        self.found.places[path] = Place(
            kind=kind,
            key_line=key_line,
            line=node.start_mark.line,
            column=node.start_mark.column,
            end_line=end[0],
            end_column=end[1],
        )
        return end[0]

    def _children(self, node: yaml.Node, path: str) -> Iterator[tuple[str, int, yaml.Node]]:
        before = f"{path}." if path else ""
        if isinstance(node, yaml.SequenceNode):
            for number, child in enumerate(node.value):
                yield f"{before}{number}", child.start_mark.line, child
        elif isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, child in node.value:
                name = str(key.value) if isinstance(key, yaml.ScalarNode) else ""
                if name in seen:
                    hint = "YAML would silently take the last one; remove one of them"
                    self._problem(key.start_mark.line, f"{before}{name}", "stands here twice", hint)
                seen.add(name)
                yield f"{before}{name}", key.start_mark.line, child

    def _problem(self, line: int, path: str, problem: str, hint: str) -> None:
        self.found.problems.append(TextProblem(line=line, field=path, problem=problem, hint=hint))


def number_hint(value: Any) -> str | None:
    """For text that a person meant as a number: YAML 1.1 reads `1e-3` as text."""
    if not isinstance(value, str) or not _NUMBER.fullmatch(value.strip()):
        return None
    as_number = float(value)
    return f"YAML reads {value} as text; write {as_number!r}" if "." not in value else "write it without quotes"


def value_at(body: Any, path: str) -> Any:
    """The value at a dotted path; None where there is none."""
    for part in path.split("."):
        if isinstance(body, dict) and part in body:
            body = body[part]
        elif isinstance(body, list) and part.isdigit() and int(part) < len(body):
            body = body[int(part)]
        else:
            return None
    return body


def _broken(error: yaml.MarkedYAMLError) -> TextProblem:
    mark = error.problem_mark or error.context_mark
    problem = f"not YAML: {error.problem or error.context}"
    return TextProblem(
        line=mark.line if mark else 0, field="(body)", problem=problem, hint="check indentation, colons and quotes"
    )

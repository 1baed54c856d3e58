"""Findings: what is wrong with a specification, where, and what to do. All of them are collected before one refusal."""

import dataclasses
from dataclasses import dataclass
from typing import Any

_SHOWN_LINES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One reason why a specification cannot run."""

    field: str
    """Dotted path in the specification."""
    problem: str
    hint: str

    def as_detail(self) -> dict[str, Any]:
        """As it stands in the problem document."""
        return {"field": self.field, "problem": self.problem, "hint": self.hint}


@dataclass(frozen=True, slots=True, kw_only=True)
class BadLines:
    """Lines of one data file that share a kind of fault: the first five are named, all are counted."""

    field: str
    hint: str
    unit: str
    """`line` of a text file, or `row` of a table."""
    first: list[str] = dataclasses.field(default_factory=list)
    lines: set[int] = dataclasses.field(default_factory=set)

    def add(self, line: int, problem: str) -> None:
        """Notes a fault in a line, counted from 1."""
        self.lines.add(line)
        if len(self.first) < _SHOWN_LINES:
            self.first.append(f"{self.unit} {line}: {problem}")

    def as_finding(self) -> Finding:
        """All lines as one finding."""
        named = "; ".join(self.first)
        more = f"; {len(self.lines)} bad {self.unit}s in all" if len(self.lines) > _SHOWN_LINES else ""
        return Finding(field=self.field, problem=named + more, hint=self.hint)

"""Figures from papers, to stand beside a study's own rows: always marked as published, never computed with.

A table is a TOML file in this folder. Scores are per cent, as printed; a study's own figures are shares of 1.
"""

import tomllib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Literal, Self

from pydantic import Field, model_validator

from service.contract.strict_model import StrictModel

PublishedTableName = Literal["sed-sft-table1"]

_FILES: dict[PublishedTableName, str] = {"sed-sft-table1": "sed_sft_table1.toml"}


class PublishedRow(StrictModel):
    """One line of a published table: what a method scored on each set, in one run."""

    model: str
    """A key of the table's `models`, which is the name of the preset too: `paper/{model}`."""
    point: Literal["after_sft", "after_rl"]
    method: str
    """A key of the table's `methods`, which is the name of the presets' arm too."""
    scores: list[float]
    """Per cent, in the order of the table's `sets`."""
    average: float
    """Over the sets, as printed."""
    note: str = ""
    """What is known to be odd about this row."""


class PublishedTable(StrictModel):
    """A table of a paper. `is_single_run` says that its differences carry no uncertainty, and so show nothing alone."""

    name: PublishedTableName
    title: str
    source: str
    is_single_run: Literal[True] = True
    sets: list[str]
    """Names of evaluation sets, as `service.contract.data_sets` has them."""
    notes: list[str]
    models: dict[str, str]
    """Short name to the name in the paper."""
    methods: dict[str, str]
    """Name of the presets' arm to the name in the paper, in the paper's order."""
    rows: list[PublishedRow] = Field(min_length=1)

    @model_validator(mode="after")
    def _rows_fit(self) -> Self:
        for row in self.rows:
            if row.model not in self.models or row.method not in self.methods or len(row.scores) != len(self.sets):
                raise ValueError(f"row {row.model}, {row.point}, {row.method} does not fit the table's head")
        return self

    def rows_of(self, model: str, point: str) -> Sequence[PublishedRow]:
        """The rows of one model at one point, in the paper's order; none where the paper has none."""
        return [row for row in self.rows if (row.model, row.point) == (model, point)]


@cache
def published_table(name: PublishedTableName = "sed-sft-table1") -> PublishedTable:
    """A published table by its name."""
    return PublishedTable.model_validate(tomllib.loads(files(__name__).joinpath(_FILES[name]).read_text("utf-8")))

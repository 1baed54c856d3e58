"""Metric series: appended by drivers, read as points or envelopes, merged over the attempts of an experiment.

The newest points of a series are kept as they came (`metric_tail`); older ones are folded into arrays of 512 with their
envelope (`metric_chunks`), and their envelopes into those of 32 and of 1,024 chunks (`metric_levels`). The functions
here take the session first and never commit.
"""

from service.metric_store.axes import Axis, AxisKnot, read_axes
from service.metric_store.catalogue import CatalogueEntry, ChangedValue, changed_since, list_names
from service.metric_store.envelopes import Bucket
from service.metric_store.folding import fold_finished
from service.metric_store.reading import AttemptStart, Points, Series, read_many, read_series
from service.metric_store.writing import append_columns, append_points

__all__ = [
    "AttemptStart",
    "Axis",
    "AxisKnot",
    "Bucket",
    "CatalogueEntry",
    "ChangedValue",
    "Points",
    "Series",
    "append_columns",
    "append_points",
    "changed_since",
    "fold_finished",
    "list_names",
    "read_axes",
    "read_many",
    "read_series",
]

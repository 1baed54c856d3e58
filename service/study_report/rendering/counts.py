"""What a study's report follows from: one row for each run, point, set and prompt, with n samples and c right ones."""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from service.studies.counts import RunCounts, SetCounts

SCHEMA = pa.schema(
    [
        ("study_id", pa.string()),
        ("experiment_id", pa.string()),
        ("arm", pa.string()),
        ("sft_seed", pa.int64()),
        ("rl_seed", pa.int64()),
        ("has_sft", pa.bool_()),
        ("has_rl", pa.bool_()),
        ("counts", pa.bool_()),
        ("set", pa.string()),
        ("point", pa.string()),
        ("uid", pa.int64()),
        ("num_samples", pa.int64()),
        ("num_right", pa.int64()),
        ("mean_reward", pa.float64()),
        ("majority", pa.float64()),
    ]
)
"""`counts`: whether the run succeeded and is not excluded; only those are in the report."""
_REPEATING = [name for name in SCHEMA.names if name not in ("uid", "mean_reward", "majority")]


def counts_parquet(study_id: str, runs: Sequence[RunCounts]) -> bytes:
    """One group of rows for each run."""
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, SCHEMA, compression="zstd", use_dictionary=_REPEATING) as writer:
        for table in _tables(study_id, runs):
            writer.write_table(table)
    return sink.getvalue()


def counts_csv(study_id: str, runs: Sequence[RunCounts]) -> Iterator[bytes]:
    """With a head line, piece by piece."""
    yield _csv_lines([SCHEMA.names])
    for table in _tables(study_id, runs):
        yield _csv_lines(list(zip(*(column.to_pylist() for column in table.columns), strict=True)))


def _tables(study_id: str, runs: Sequence[RunCounts]) -> Iterator[Any]:
    for run in runs:
        for point, sets in run.points.items():
            for name, counts in sets.items():
                yield _table({"study_id": study_id, "set": name, "point": point}, run, counts)


def _table(place: dict[str, str], run: RunCounts, counts: SetCounts) -> Any:
    same = place | {
        name: getattr(run, name)
        for name in ("experiment_id", "arm", "sft_seed", "rl_seed", "has_sft", "has_rl", "counts")
    }
    columns = {name: [value] * len(counts.uids) for name, value in same.items()}
    columns |= {
        "uid": list(counts.uids),
        "num_samples": [counts.num_samples] * len(counts.uids),
        "num_right": [int(count) for count in counts.columns["num_correct"]],
        "mean_reward": list(counts.columns["mean_reward"]),
        "majority": list(counts.columns["majority"]),
    }
    return pa.table(columns, schema=SCHEMA)


def _csv_lines(rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()

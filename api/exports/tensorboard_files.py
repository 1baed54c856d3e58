"""A run as event files for TensorBoard. Needs the extra `mirrors`."""

from collections.abc import Iterable
from pathlib import Path

from api.exports.extras import require
from api.exports.gathered_run import Series
from api.schemas import Experiment


class FolderInUse(Exception):
    """There are event files already, and TensorBoard would show both runs as one."""


def export_tensorboard(experiment: Experiment, series: Iterable[Series], folder: Path) -> Path:
    """Write `folder/<experiment id>`, which it returns. Raises MissingExtra, FolderInUse."""
    require("tensorboard", "TensorBoard")
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    target = folder / experiment.id
    if target.is_dir() and any(target.iterdir()):
        raise FolderInUse(f"{target} has files already; remove it, or name another folder")
    writer = EventFileWriter(str(target))
    try:
        for one in series:
            for point in one.points:
                value = Summary.Value(tag=one.name, simple_value=point.value)
                writer.add_event(Event(wall_time=point.ts.timestamp(), step=point.step, summary=Summary(value=[value])))
    finally:
        writer.close()
    return target

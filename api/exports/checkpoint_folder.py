"""The model of a stage as a Hugging Face folder with its card and its specification."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import yaml

from api.client import SedrayClient
from api.export_schemas import ModelFileOut
from api.exports.model_card import model_card
from api.schemas import Experiment

CARD, SPECIFICATION = "README.md", "sedray_spec.yaml"
_TRAINED: tuple[Literal["sft", "rl"], ...] = ("sft", "rl")


class CannotExport(Exception):
    """There is nothing to export, or no place for it."""


def trained_stage(experiment: Experiment, wanted: Literal["sft", "rl"] | None) -> Literal["sft", "rl"]:
    """The stage whose model is meant: the one asked for, or the last one that has finished. Raises CannotExport."""
    left_a_model = {result.stage for result in experiment.stage_results if result.checkpoint}
    finished = [stage for stage in _TRAINED if stage in left_a_model]
    if wanted is not None and wanted in finished:
        return wanted
    if wanted is None and finished:
        return "rl" if "rl" in finished else "sft"
    name = f"stage {wanted}" if wanted else "stage that trains"
    raise CannotExport(
        f"experiment {experiment.id} ({experiment.status.value}) has no finished {name}"
        + (f"; finished: {', '.join(finished)}" if finished else "; wait with: sedray watch " + experiment.id)
    )


def export_checkpoint(
    client: SedrayClient,
    experiment: Experiment,
    stage: Literal["sft", "rl"],
    folder: Path,
    *,
    base_model: str | None = None,
    on_file: Callable[[ModelFileOut], None] | None = None,
) -> None:
    """Write the folder. One that holds something else is refused; one that broke off is completed.

    Raises CannotExport.
    """
    _require_own(folder, experiment)
    folder.mkdir(parents=True, exist_ok=True)
    # First, so that a folder that breaks off can be told from a stranger's.
    spec = experiment.spec.model_dump(mode="json", by_alias=True)
    (folder / SPECIFICATION).write_text(
        f"# {experiment.id}\n" + yaml.safe_dump(spec, sort_keys=False, allow_unicode=True)
    )
    client.download_model(experiment.id, stage, folder, on_file=on_file)
    (folder / CARD).write_text(model_card(experiment, stage, base_model=base_model), encoding="utf-8")


def _require_own(folder: Path, experiment: Experiment) -> None:
    if folder.exists() and not folder.is_dir():
        raise CannotExport(f"{folder} is a file; name a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    spec = folder / SPECIFICATION
    if not spec.is_file() or not spec.read_text().startswith(f"# {experiment.id}\n"):
        raise CannotExport(f"{folder} holds something else than an export of {experiment.id}; name an empty folder")

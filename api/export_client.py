"""Calls about exported models: what `SedrayClient` has beside the experiments themselves."""

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Literal

from api.client_requests import Requests
from api.export_schemas import ModelFileOut, ModelFilesPage


class ExportCalls(Requests):
    """A part of `SedrayClient`."""

    def model_files(self, experiment_id: str, stage: Literal["sft", "rl"]) -> ModelFilesPage:
        """The files of the model that a stage has left."""
        return self._get(ModelFilesPage, f"/experiments/{experiment_id}/models/{stage}")

    def download_model(
        self,
        experiment_id: str,
        stage: Literal["sft", "rl"],
        folder: Path,
        *,
        on_file: Callable[[ModelFileOut], None] | None = None,
    ) -> ModelFilesPage:
        """Write the model's files into `folder`, each of which appears when it is whole; `on_file` is told of each.

        A file that is there already with its number of bytes is left alone, so a download that broke off goes on.
        Raises ValueError for names that would lead out of the folder.
        """
        page = self.model_files(experiment_id, stage)
        for file in page.items:
            parts = PurePosixPath(file.name).parts
            if file.name.startswith("/") or ".." in parts or not parts:
                raise ValueError(f"the service names a file {file.name!r}, which lies outside of the folder")
            target = folder.joinpath(*parts)
            if not (target.is_file() and target.stat().st_size == file.num_bytes):
                target.parent.mkdir(parents=True, exist_ok=True)
                self._download(f"/experiments/{experiment_id}/models/{stage}/file", {"name": file.name}, target)
            if on_file is not None:
                on_file(file)
        return page

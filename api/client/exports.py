"""Calls about exported models."""

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Literal

from api.client.calls import AnyTransport, Conversation, Part, ask, call
from api.client.requests import Request, download, get, path
from api.export_schemas import ModelFileOut, ModelFilesPage


class ExportCalls(Part[AnyTransport]):
    """A part of the client."""

    @call
    def model_files(self, experiment_id: str, stage: Literal["sft", "rl"]) -> Request[ModelFilesPage]:
        """The files of the model that a stage has left."""
        return get(ModelFilesPage, path("experiments", experiment_id, "models", stage))

    @call
    def download_model(
        self,
        experiment_id: str,
        stage: Literal["sft", "rl"],
        folder: Path,
        *,
        on_file: Callable[[ModelFileOut], None] | None = None,
    ) -> Conversation[ModelFilesPage]:
        """Write the model's files into `folder`, each of which appears when it is whole; `on_file` is told of each.

        A file that is there already with its number of bytes is left alone, so a download that broke off goes on.
        Raises ValueError for names that would lead out of the folder.
        """
        where = path("experiments", experiment_id, "models", stage)
        page = yield from ask(get(ModelFilesPage, where))
        for file in page.items:
            target = _place_of(file, folder)
            if not (target.is_file() and target.stat().st_size == file.num_bytes):
                target.parent.mkdir(parents=True, exist_ok=True)
                yield from ask(download(f"{where}/file", target, {"name": file.name}))
            if on_file is not None:
                on_file(file)
        return page


def _place_of(file: ModelFileOut, folder: Path) -> Path:
    parts = PurePosixPath(file.name).parts
    if file.name.startswith("/") or ".." in parts or not parts:
        raise ValueError(f"the service names a file {file.name!r}, which lies outside of the folder")
    return folder.joinpath(*parts)

"""What the parts of `SedrayClient` ask of it: requests, and their answers as models."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

Model = TypeVar("Model", bound=BaseModel)


class Requests(ABC):
    """Mixed into each part; the client makes the requests."""

    @abstractmethod
    def _get(
        self, model: type[Model], path: str, query: Mapping[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> Model:
        """What is None in the query is left out."""

    @abstractmethod
    def _call(
        self,
        model: type[Model],
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        repeat: bool = True,
    ) -> Model:
        """Sent again where no answer came, unless `repeat` is off."""

    @abstractmethod
    def _download(self, path: str, query: Mapping[str, Any], target: Path) -> None:
        """Write an answer's body to a file that appears when it is whole."""

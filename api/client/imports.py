"""Calls about configurations of other systems."""

from api.client.calls import AnyTransport, Part, call
from api.client.requests import Request, path, send
from service.contract.imports import ConfigImport, ImportRequest


class ImportCalls(Part[AnyTransport]):
    """A part of the client."""

    @call
    def import_config(self, request: ImportRequest) -> Request[ConfigImport]:
        """A configuration of TRL or verl as a specification, with what became of every option; stores nothing."""
        return send(ConfigImport, "POST", path("import"), request.model_dump(mode="json"), may_repeat=True)

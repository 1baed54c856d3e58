"""Calls about configurations of other systems: what `SedrayClient` has beside the experiments themselves."""

from api.client_requests import Requests
from service.contract.imports import ConfigImport, ImportRequest


class ImportCalls(Requests):
    """A part of `SedrayClient`."""

    def import_config(self, request: ImportRequest) -> ConfigImport:
        """A configuration of TRL or verl as a specification, with what became of every option; stores nothing."""
        return self._call(ConfigImport, "POST", "/import", json=request.model_dump(mode="json"))

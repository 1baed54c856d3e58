"""Mirrors in a specification: addresses without secrets."""

import pytest
from pydantic import ValidationError

from service.contract.mirrors import MlflowMirror, WandbMirror, origin_of


@pytest.mark.parametrize("uri", ["https://ada:secret@mlflow.example.org", "sqlite:///x.db", "databricks://prod"])
def test_an_address_with_credentials_or_of_another_kind_is_refused(uri: str) -> None:
    with pytest.raises(ValidationError):
        MlflowMirror(tracking_uri=uri)


def test_a_server_is_its_scheme_host_and_port() -> None:
    assert origin_of("https://a.org/x") == origin_of("https://a.org:443") == "https://a.org:443"
    assert origin_of("http://a.org") != origin_of("https://a.org") and origin_of("/folder") == ""
    with pytest.raises(ValidationError, match="credentials"):
        WandbMirror(base_url="https://k@api.wandb.ai")

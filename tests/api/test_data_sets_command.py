"""`sedray data sets` lists what can be called by name, without a service."""

import json

from typer.testing import CliRunner

from api.cli.commands import app
from api.cli.data_sets import show_data_sets
from service.contract.data_sets import DATA_SETS


def test_data_sets_are_listed_and_shown_and_a_wrong_name_gets_the_nearest() -> None:
    assert show_data_sets.__doc__
    listed = CliRunner().invoke(app, ["data", "sets", "--json"])
    assert [one["name"] for one in json.loads(listed.stdout)] == list(DATA_SETS)
    assert "give revision" in CliRunner().invoke(app, ["data", "sets", "gaokao2023en"]).stdout
    assert "1,319" in CliRunner().invoke(app, ["data", "sets"]).stdout
    refused = CliRunner().invoke(app, ["data", "sets", "gsm8"])
    assert refused.exit_code == 2 and "gsm8k" in refused.output

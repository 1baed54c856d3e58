from pathlib import Path

import pytest

from service.embedded.__main__ import read_options
from service.embedded.ray_head import RayAddress


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text("x")
    return file


def test_without_options_everything_is_embedded_on_loopback() -> None:
    options = read_options([])
    assert (options.data, options.host, options.port) == (Path(".sedray"), "127.0.0.1", 0)
    assert options.database_url is None and options.ray is None


def test_a_given_cluster_and_database_are_used(token_file: Path) -> None:
    url = "postgresql+psycopg://u:hush-hush@db/x"
    options = read_options(
        ["--database-url", url, "--ray-address", "http://ray:8265/", "--ray-token-file", str(token_file)]
    )
    assert options.ray == RayAddress(dashboard_url="http://ray:8265", token_file=token_file)
    assert options.database_url == url
    assert "hush-hush" not in repr(options)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--database-url", "sqlite:///x"], "must start with postgresql+psycopg://"),
        (["--ray-address", "http://ray:8265"], "belong together"),
        (["--ray-address", "http://ray:8265", "--ray-token-file", "/nowhere"], "is not a file"),
        (["--port", "70000"], "from 0 to 65535"),
        (["--num-cpus", "0"], "at least 1"),
    ],
)
def test_misuse_is_explained(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        read_options(arguments)
    assert words in capsys.readouterr().err

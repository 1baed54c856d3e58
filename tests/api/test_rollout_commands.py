"""Stored rollouts by client and command line, against a server that answers as the service does."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from typer.testing import CliRunner, Result

from api.cli import rollouts
from api.cli.commands import app
from api.client import ProblemReply, RetryPolicy, SedrayClient, ServiceUnreachable
from service.contract.stored_rollouts import RolloutQuery

ITEM = {
    "step": 3,
    "prompt_uid": 7,
    "sample_index": 0,
    "policy_version": 2,
    "age": 1,
    "prompt": "2 3 -> 5 :",
    "answer": "2 3 -> 5",
    "completion": "2 + 3\n= 5 \x1b[31m",
    "finish_reason": "stop",
    "num_tokens": 6,
    "reward": 0.5,
    "reward_parts": {"form": 1.0, "value": None},
}


class Answers(BaseHTTPRequestHandler):
    """Two pages of two completions each, or four bytes of Parquet."""

    asked: list[dict[str, list[str]]] = []

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        self.asked.append(query)
        if query.get("format") == ["parquet"]:
            body = b"PAR1"
        else:
            cursor = None if "cursor" in query else "more"
            body = json.dumps({"items": [ITEM, ITEM], "next_cursor": cursor}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    """Address of a server that has been asked nothing yet."""
    Answers.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(10)


def run(url: str, folder: Path, *options: str) -> Result:
    (folder / "token").write_text("sr_1")
    start = ["--url", url, "--token-file", str(folder / "token"), "rollouts", "exp-1"]
    return CliRunner().invoke(app, [*start, *options])


def test_the_client_goes_on_to_the_last_page(url: str) -> None:
    with SedrayClient(url, "sr_1") as client:
        found = list(client.search_rollouts("exp-1", RolloutQuery(min_reward=0.5, columns=["step", "reward"])))
    assert [one.step for one in found] == [3] * 4
    asked = {"min_reward": ["0.5"], "columns": ["step", "reward"]}
    assert Answers.asked == [asked, asked | {"cursor": ["more"]}]


def test_a_frame_has_a_column_for_each_part_of_the_reward(url: str) -> None:
    with SedrayClient(url, "sr_1") as client:
        frame = client.frames.rollouts("exp-1", max_rows=3)
    assert list(frame["reward_parts.form"]) == [1.0] * 3
    assert "reward_parts" not in frame.columns


def test_an_export_appears_when_it_is_whole(url: str, tmp_path: Path) -> None:
    with SedrayClient(url, "sr_1") as client:
        client.export_rollouts("exp-1", tmp_path / "all.parquet", RolloutQuery(prompt_uid=7))
    assert (tmp_path / "all.parquet").read_bytes() == b"PAR1"
    assert Answers.asked == [{"prompt_uid": ["7"], "format": ["parquet"]}]


def broken_body() -> Iterator[bytes]:
    yield b"PAR1"
    raise httpx.RemoteProtocolError("peer closed connection without sending complete message body")


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (lambda: httpx.Response(200, content=broken_body()), ServiceUnreachable),
        (lambda: httpx.Response(422, json={"detail": "narrow it", "code": "query_too_slow"}), ProblemReply),
    ],
    ids=["broken off", "refused"],
)
def test_an_export_that_fails_leaves_nothing(tmp_path: Path, response: object, error: type[Exception]) -> None:
    assert callable(response)
    http = httpx.Client(transport=httpx.MockTransport(lambda _: response()))
    at_once = RetryPolicy(first_pause_s=0.0)
    with SedrayClient("http://service", "sr_1", http=http, retries=at_once) as client, pytest.raises(error):
        client.export_rollouts("exp-1", tmp_path / "all.parquet")
    assert list(tmp_path.iterdir()) == []


def test_the_command_asks_for_what_its_options_say(url: str, tmp_path: Path) -> None:
    answer = run(url, tmp_path, "--step", "3", "--min-reward", "0.5", "--prompt", "7", "--whole", "--limit", "3")
    assert answer.exit_code == 0, answer.output
    assert Answers.asked[0] == {
        "store": ["whole"],
        "from_step": ["3"],
        "to_step": ["3"],
        "min_reward": ["0.5"],
        "prompt_uid": ["7"],
        "limit": ["3"],
    }
    lines = answer.stdout.splitlines()
    assert len(lines) == 1 + 3
    assert lines[1].split()[:8] == ["3", "7", "0", "2", "1", "6", "stop", "0.5"]
    assert "\x1b" not in answer.stdout


def test_completions_are_shown_whole_or_as_json(url: str, tmp_path: Path) -> None:
    whole = run(url, tmp_path, "--full", "--limit", "1").stdout
    assert "2 3 -> 5 :\n2 + 3\n= 5 \\x1b[31m\nanswer: 2 3 -> 5" in whole
    assert "(form 1  value –)" in whole
    lines = run(url, tmp_path, "--json", "--columns", "step, reward").stdout.splitlines()
    assert [json.loads(line) for line in lines] == [ITEM] * 4
    assert Answers.asked[-1]["columns"] == ["step", "reward"]


def test_an_export_has_all_unless_told_otherwise(url: str, tmp_path: Path) -> None:
    target = tmp_path / "found.parquet"
    assert run(url, tmp_path, "--export", str(target), "--contains", "x").exit_code == 0
    assert target.read_bytes() == b"PAR1"
    assert Answers.asked == [{"format": ["parquet"], "contains": ["x"]}]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--min-reward", "2", "--max-reward", "1"], "min_reward 2.0 lies above max_reward 1.0"),
        (["--step", "1", "--from-step", "1"], "--step names one step"),
        (["--columns", "step"], "--columns belongs to --json or --export"),
        (["--json", "--columns", "stepp"], "columns.0"),
        (["--export", "x", "--order", "reward"], "needs a limit"),
    ],
    ids=str,
)
def test_wrong_usage_is_refused_before_anything_is_asked(
    url: str, tmp_path: Path, options: list[str], said: str
) -> None:
    answer = run(url, tmp_path, *options)
    assert answer.exit_code == 2
    assert said in answer.output
    assert Answers.asked == []


def test_nothing_found_is_said_so() -> None:
    assert "no stored completion fits" in str(rollouts.table_view([]))
    assert "no stored completion fits" in str(rollouts.whole_view([]))

"""The Python client against a transport that answers as the service does."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from api.client import ProblemReply, SedrayClient, ServiceUnreachable, parse_stream
from tests.factories import make_token_view

ME = {"user": "ada", "kind": "person", "is_admin": False, "token": "laptop", "scope": "write", "projects": {}}
Handler = Callable[[httpx.Request], httpx.Response]


def client_with(handler: Handler) -> SedrayClient:
    return SedrayClient("http://service", "sr_token", http=httpx.Client(transport=httpx.MockTransport(handler)))


def test_every_request_carries_the_token() -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["Authorization"])
        return httpx.Response(200, json=ME)

    assert client_with(answer).me().user == "ada"
    assert seen == ["Bearer sr_token"]


def test_a_refused_request_raises_the_problem_document() -> None:
    problem = {
        "title": "The specification is not valid",
        "detail": "1 problem",
        "code": "invalid_spec",
        "errors": [{"field": "sft.lr", "problem": "unknown key 'lr'"}],
    }

    with pytest.raises(ProblemReply) as caught:
        client_with(lambda _: httpx.Response(422, json=problem)).me()

    assert (caught.value.status, caught.value.code) == (422, "invalid_spec")
    assert caught.value.errors[0]["field"] == "sft.lr"


def test_a_reply_that_is_no_problem_document_still_says_what_came() -> None:
    with pytest.raises(ProblemReply, match="Bad things"):
        client_with(lambda _: httpx.Response(500, text="Bad things")).me()


def test_submissions_are_repeated_under_one_idempotency_key() -> None:
    keys: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["Idempotency-Key"])
        return httpx.Response(503) if len(keys) < 3 else httpx.Response(409, json={"code": "seen", "detail": "enough"})

    with pytest.raises(ProblemReply, match="enough"):
        client_with(answer).submit({"name": "x"})

    assert len(keys) == 3
    assert len(set(keys)) == 1


def test_a_service_that_never_answers_is_reported_after_a_few_tries() -> None:
    tries = 0

    def refuse(_: httpx.Request) -> httpx.Response:
        nonlocal tries
        tries += 1
        raise httpx.ConnectError("refused")

    with pytest.raises(ServiceUnreachable, match="does not answer"):
        client_with(refuse).me()
    assert tries == 5


def test_a_broken_stream_goes_on_after_the_last_message_seen() -> None:
    asked: list[str | None] = []
    first = 'id: 1.0.0\nevent: metrics\ndata: {"values": []}\n\n'
    second = 'id: 2.0.0\nevent: end\ndata: {"status": "succeeded", "end_reason": "completed"}\n\n'

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("Last-Event-ID"))
        return httpx.Response(200, text=first if len(asked) == 1 else second)

    messages = list(client_with(answer).stream("exp-1"))

    assert [message.event for message in messages] == ["metrics", "end"]
    assert asked == [None, "1.0.0"]


def test_stream_parsing_leaves_out_comments_and_joins_data_lines() -> None:
    text = ": keep-alive\n\nevent: x\ndata: {\ndata: }\n\ndata: 1\n\n"

    messages = list(parse_stream(iter(text.splitlines())))

    assert [(message.event, message.data) for message in messages] == [("x", {}), ("message", 1)]


def test_a_token_view_is_found_by_step_and_sample() -> None:
    view = make_token_view(5, 1)

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/api/v1/experiments/exp-1/token-views/sft/5/1"
        return httpx.Response(200, text=view.model_dump_json())

    assert client_with(answer).token_view("exp-1", step=5, sample_index=1) == view


def test_dry_run_asks_for_a_dry_run() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.params["dry_run"] == "true"
        assert json.loads(request.content) == {"name": "x"}
        return httpx.Response(422, json={"detail": "no"})

    with pytest.raises(ProblemReply, match="no"):
        client_with(answer).dry_run({"name": "x"})


def test_a_download_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "step-7.parquet"
    client_with(lambda _: httpx.Response(200, content=b"PAR1")).download_rollouts("exp-1", 7, target)
    assert [path.name for path in tmp_path.iterdir()] == ["step-7.parquet"]
    assert target.read_bytes() == b"PAR1"


def test_a_download_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    def half() -> Iterator[bytes]:
        yield b"PA"
        raise httpx.ReadError("gone")

    with pytest.raises(ServiceUnreachable, match="broke off"):
        client_with(lambda _: httpx.Response(200, content=half())).download_rollouts("exp-1", 7, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_download_of_what_is_not_stored_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProblemReply):
        client_with(lambda _: httpx.Response(404, json={"title": "Not found"})).download_rollouts(
            "exp-1", 7, tmp_path / "x"
        )
    assert list(tmp_path.iterdir()) == []

"""The Python client against a transport that answers as the service does."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from api.client import (
    Invalid,
    NotFound,
    ProblemReply,
    RetryPolicy,
    SedrayClient,
    ServiceUnreachable,
    UnknownAnswer,
    parse_stream,
)
from tests.factories import make_token_view

ME = {"user": "ada", "kind": "person", "is_admin": False, "token": "laptop", "scope": "write", "projects": {}}
NOW = "2026-01-01T00:00:00Z"
Handler = Callable[[httpx.Request], httpx.Response]


AT_ONCE = RetryPolicy(first_pause_s=0.0)


def client_with(handler: Handler, retries: RetryPolicy = AT_ONCE) -> SedrayClient:
    http = httpx.Client(transport=httpx.MockTransport(handler))
    return SedrayClient("http://service", "sr_token", http=http, retries=retries)


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

    with pytest.raises(Invalid) as caught:
        client_with(lambda _: httpx.Response(422, json=problem)).me()

    assert (caught.value.status, caught.value.code) == (422, "invalid_spec")
    assert caught.value.errors[0]["field"] == "sft.lr"
    assert str(caught.value) == "1 problem\n  sft.lr: unknown key 'lr'"


def test_an_answer_that_no_model_fits_is_said_to_be_of_another_version() -> None:
    with pytest.raises(UnknownAnswer, match="another version"):
        client_with(lambda _: httpx.Response(200, json={"surprise": 1})).me()


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


def test_what_may_have_been_done_is_not_sent_again() -> None:
    """A PATCH whose answer is lost; one that met no listener, or was told to come later, was not done."""
    tries: list[str] = []

    def lose(request: httpx.Request) -> httpx.Response:
        tries.append(request.method)
        raise [httpx.ConnectError("refused"), httpx.ReadError("gone")][len(tries) - 1]

    with pytest.raises(ServiceUnreachable, match="not known"):
        client_with(lose).projects.change("team", archived=True)
    assert tries == ["PATCH", "PATCH"]

    answers = iter([httpx.Response(429, headers={"Retry-After": "0"}), httpx.Response(503, json={"detail": "later"})])
    with pytest.raises(ProblemReply, match="later"):
        client_with(lambda _: next(answers)).cancel("exp-1")


def test_tries_end_before_the_deadline_of_the_whole() -> None:
    answers = iter([httpx.Response(503, headers={"Retry-After": "3600"}, json={"detail": "busy"})])
    with pytest.raises(ProblemReply, match="busy"):
        client_with(lambda _: next(answers), RetryPolicy()).me()


def test_an_id_cannot_lead_elsewhere() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.raw_path == b"/api/v1/experiments/..%2Fusers%3Fx"
        return httpx.Response(404, json={"detail": "no such experiment"})

    with pytest.raises(NotFound):
        client_with(answer).experiment("../users?x")


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


def test_events_and_metrics_are_picked_out_of_the_stream() -> None:
    event = {"id": 1, "ts": NOW, "kind": "status", "message": "runs", "attempt_id": None, "detail": {}}
    values = [{"name": "a", "step": 1, "value": 0.5}, {"name": "b", "step": 1, "value": "NaN"}]
    text = "".join(
        f"event: {kind}\ndata: {json.dumps(data)}\n\n"
        for kind, data in (("event", event), ("metrics", {"values": values}), ("end", {"status": "succeeded"}))
    )
    client = client_with(lambda _: httpx.Response(200, text=text))

    assert [one.message for one in client.follow_events("exp-1")] == ["runs"]
    assert [(one.name, one.value) for one in client.follow_metrics("exp-1", ["a"])] == [("a", 0.5)]


def test_a_followed_log_gives_each_line_once_over_pages_and_a_break() -> None:
    streams = iter(["id: 0.0.2\nevent: logs\ndata: {}\n\n", "event: end\ndata: {}\n\n"])
    lines = [{"id": n, "ts": NOW, "attempt_number": 1, "source": "driver", "text": f"line {n}"} for n in (1, 2, 3)]

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/stream"):
            return httpx.Response(200, text=next(streams))
        after = int(request.url.params["after"])
        items = [line for line in lines if line["id"] > after][:1]
        return httpx.Response(200, json={"items": items, "next_after": items[0]["id"] if after == 0 else None})

    assert [line.text for line in client_with(answer).follow_logs("exp-1")] == ["line 1", "line 2", "line 3"]


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

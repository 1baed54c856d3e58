"""Each reward judges one sample as its description says."""

from collections.abc import Iterator

import httpx
import pytest

from service.contract.rewards import (
    CountdownReward,
    ExactMatchReward,
    HttpJudgeReward,
    JsonSchemaReward,
    MathAnswerReward,
    PythonFunctionReward,
    RegexReward,
    SingleReward,
)
from tests.workers.rewards.samples import make_sample
from workers.config_error import ConfigError
from workers.rewards import http_judge
from workers.rewards.answer_keys import build_answer_key
from workers.rewards.build import build_verifier
from workers.rewards.http_judge import HttpJudgeVerifier
from workers.rewards.in_process import MAX_COUNTDOWN_CHARACTERS
from workers.rewards.samples import GoldUnreadable, Undecided

GOLD = "3 5 7 -> 22"
RIGHT = "3 * 5 = 15 ; 15 + 7 = 22"


def score(spec: SingleReward, completion: str, answer: str = "") -> float:
    return build_verifier(spec).score(make_sample(completion, answer))


def test_countdown_rewards_a_trace_that_reaches_the_target_and_no_other() -> None:
    assert score(CountdownReward(), RIGHT, GOLD) == 1.0
    assert score(CountdownReward(), RIGHT, "3 5 7 -> 21") == 0.0


@pytest.mark.parametrize("completion", ["", ";", "= = =", "\x00", "3 * 5", "９ + 1 = 10 ; 1 + 1 = 2"])
def test_no_completion_makes_countdown_raise(completion: str) -> None:
    assert score(CountdownReward(), completion, GOLD) == 0.0
    assert isinstance(build_answer_key(CountdownReward())(completion), str)


def test_overlong_text_is_wrong_even_if_it_is_a_trace_with_spaces() -> None:
    assert score(CountdownReward(), RIGHT + " " * MAX_COUNTDOWN_CHARACTERS, GOLD) == 0.0


def test_countdown_answers_are_equal_up_to_spacing_and_operand_order() -> None:
    key = build_answer_key(CountdownReward())
    assert key(RIGHT) == key("5 *  3 = 15 ; 7 + 15 = 22")
    assert key(RIGHT) != key("3 + 5 = 8 ; 8 + 7 = 15")
    assert key("3 +") == key(" 3  + ") != key("3 -")


def test_unreadable_gold_answers_end_the_run() -> None:
    with pytest.raises(GoldUnreadable, match="Countdown problem"):
        score(CountdownReward(), RIGHT, "22")
    with pytest.raises(GoldUnreadable, match="blank"):
        score(ExactMatchReward(), "", " ")
    with pytest.raises(GoldUnreadable, match="cannot be parsed"):
        score(MathAnswerReward(), "1", r"\frac{1}{} + ")


def test_exact_match_ignores_outer_white_space_only() -> None:
    assert score(ExactMatchReward(), " 42\n", "42 ") == 1.0
    assert score(ExactMatchReward(), "4 2", "42") == 0.0
    assert build_answer_key(ExactMatchReward())(" 42\n") == "42"


@pytest.mark.parametrize(
    ("completion", "gold"),
    [
        (r"so it is \boxed{\frac{1}{2}}", "0.5"),
        ("the answer is 0.5", r"\frac12"),
        (r"$(x+1)^2$", "x^2 + 2x + 1"),
        (r"\boxed{\{2, 1\}}", r"\{1, 2\}"),
    ],
)
def test_equal_mathematics_is_right_in_any_form(completion: str, gold: str) -> None:
    assert score(MathAnswerReward(), completion, gold) == 1.0


@pytest.mark.parametrize("completion", ["", "no idea", r"\boxed{}", r"\boxed{3}", r"\frac{1}{", "½ ∑ 日本"])
def test_other_mathematics_and_none_is_wrong(completion: str) -> None:
    assert score(MathAnswerReward(), completion, "2") == 0.0


def test_math_answers_are_the_same_up_to_spaces() -> None:
    key = build_answer_key(MathAnswerReward())
    assert key(r"thus \boxed{\frac{1}{2}}.") == key(r"\boxed{ \frac{1} {2} }") == r"\frac{1}{2}"
    assert key("first 3 and then 4") == "4"


def test_a_pattern_alone_judges_the_form() -> None:
    spec = RegexReward(pattern=r"^<think>.*</think>\s*\S")
    assert score(spec, "<think>a\nb</think> 3") == 1.0
    assert score(spec, "3") == 0.0


def test_a_pattern_with_an_answer_compares_the_last_one() -> None:
    spec = RegexReward(pattern=r"answer: (?P<answer>\w+)")
    assert score(spec, "answer: 1, no, answer: größe", "größe") == 1.0
    assert score(spec, "answer: größe, no, answer: 1", "größe") == 0.0
    assert score(spec, "größe", "größe") == 0.0


def test_json_is_held_to_the_schema_of_the_specification_or_of_the_row() -> None:
    schema = '{"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}'
    assert score(JsonSchemaReward(), '{"a": 1}', schema) == 1.0
    assert score(JsonSchemaReward(), '{"a": "1"}', schema) == 0.0
    fixed = JsonSchemaReward(json_schema={"type": "array"})
    assert score(fixed, "[]") == 1.0
    assert [score(fixed, text) for text in ("", "[", "{}", "[NaN]", "[" * 100_000)] == [0.0] * 5


def test_a_schema_that_is_none_is_refused_before_the_first_sample() -> None:
    with pytest.raises(ConfigError, match="no JSON Schema"):
        build_verifier(JsonSchemaReward(json_schema={"type": 3}))


def test_a_function_that_cannot_be_imported_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.chdir(str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="No module named"):
        build_verifier(PythonFunctionReward(function="nowhere_to_be_found:reward", working_dir=str(tmp_path)))


def http_score(replies: list[httpx.Response | Exception], **changes: object) -> float:
    left: Iterator[httpx.Response | Exception] = iter(replies)

    def answer(request: httpx.Request) -> httpx.Response:
        reply = next(left)
        if isinstance(reply, Exception):
            raise reply
        return reply

    spec = HttpJudgeReward.model_validate({"url": "http://judge.test/score"} | changes)
    verifier = HttpJudgeVerifier(spec, httpx.MockTransport(answer))
    return verifier.score(make_sample("größe \ud800", "a", prompt="p"))


def test_a_judge_is_asked_again_where_the_way_to_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_judge.time, "sleep", lambda seconds: None)
    good = httpx.Response(200, json={"score": 0.25, "why": "…"})
    assert http_score([httpx.ConnectError("no"), httpx.Response(503), httpx.Response(429), good]) == 0.25
    with pytest.raises(Undecided, match="after 1 retries: status 503"):
        http_score([httpx.Response(503)] * 2, num_retries=1)


@pytest.mark.parametrize(
    "reply",
    [
        httpx.Response(401),
        httpx.Response(200, text="1.0"),
        httpx.Response(200, text='{"score": NaN}'),
        httpx.Response(200, content=b" " * 70_000),
    ],
)
def test_a_judge_that_makes_no_sense_is_not_asked_again(reply: httpx.Response) -> None:
    with pytest.raises(Undecided):
        http_score([reply])


def test_a_token_that_the_environment_lacks_is_a_mistake_of_the_setup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_TOKEN", raising=False)
    with pytest.raises(ConfigError, match="JUDGE_TOKEN"):
        build_verifier(HttpJudgeReward(url="http://judge.test", token_env="JUDGE_TOKEN"))

"""From a reward's specification to what judges by it."""

from typing import assert_never

from service.contract.rewards import (
    CodeTestsReward,
    CountdownReward,
    ExactMatchReward,
    HttpJudgeReward,
    JsonSchemaReward,
    MathAnswerReward,
    ProcessReward,
    PythonFunctionReward,
    RegexReward,
    SingleReward,
)
from workers.rewards.http_judge import HttpJudgeVerifier, judge_deadline_s
from workers.rewards.in_process import CountdownVerifier, ExactMatchVerifier
from workers.rewards.python_function import PythonFunctionVerifier
from workers.rewards.regex_match import RegexVerifier
from workers.rewards.samples import Verifier

_GRACE_S = 10.0
"""For a verifier that keeps its own deadline, and starts and clears away programs besides."""


def build_verifier(spec: SingleReward) -> Verifier:
    """The verifier, for the process that will use it. Raises ConfigError if it cannot work there."""
    match spec:
        case CountdownReward():
            return CountdownVerifier()
        case ExactMatchReward():
            return ExactMatchVerifier()
        case RegexReward():
            return RegexVerifier(spec)
        case PythonFunctionReward():
            return PythonFunctionVerifier(spec)
        case HttpJudgeReward():
            return HttpJudgeVerifier(spec)
        case MathAnswerReward() | JsonSchemaReward() | CodeTestsReward():
            return _build_heavy(spec)
        case _:
            assert_never(spec)


def deadline_s(spec: ProcessReward) -> float:
    """After how long a process that judges one sample is taken for stuck."""
    match spec:
        case HttpJudgeReward():
            return judge_deadline_s(spec)
        case CodeTestsReward():
            return spec.timeout_s + _GRACE_S
        case _:
            return spec.timeout_s


def _build_heavy(spec: MathAnswerReward | JsonSchemaReward | CodeTestsReward) -> Verifier:
    """Those whose libraries take long to import, or are for Linux: only who asks for them pays."""
    match spec:
        case MathAnswerReward():
            from workers.rewards.math_answer import MathAnswerVerifier

            return MathAnswerVerifier(compares_text=spec.unreadable_gold == "text")
        case JsonSchemaReward():
            from workers.rewards.json_schema import JsonSchemaVerifier

            return JsonSchemaVerifier(spec)
        case CodeTestsReward():
            from workers.rewards.code_tests import CodeTestsVerifier

            return CodeTestsVerifier(spec)
        case _:
            assert_never(spec)

"""When two completions count as the same answer: a text that is equal for both.

Keys are made in the stage's own process, so they take a time linear in the text and parse no mathematics.
"""

import json
import re
from collections.abc import Callable

from service.contract.rewards import CountdownReward, JsonSchemaReward, MathAnswerReward, SingleReward
from workers.rewards.countdown import countdown_answer_key
from workers.rewards.exact_match import exact_match_answer_key
from workers.rewards.in_process import MAX_COUNTDOWN_CHARACTERS

AnswerKey = Callable[[str], str]

_BOXED = "\\boxed{"
_MATH_NOISE = re.compile(r"\\left|\\right|\\[,;!:]|[$\s]")
_NUMBER = re.compile(r"-?\d+(?:[.,/]\d+)*")


def build_answer_key(spec: SingleReward) -> AnswerKey:
    """The key by which answers to this reward are told apart; of a combined reward, that of its first part."""
    match spec:
        case CountdownReward():
            return _countdown_key
        case MathAnswerReward():
            return math_answer_key
        case JsonSchemaReward():
            return json_answer_key
        case _:
            return exact_match_answer_key


def math_answer_key(completion: str) -> str:
    r"""The last `\boxed{…}`, or else the last number, or else the whole text, without spaces and sizes of brackets.

    Equal values in another form, such as 0.5 and 1/2, stay different answers.
    """
    start = completion.rfind(_BOXED)
    if start >= 0:
        return _MATH_NOISE.sub("", _until_closed(completion, start + len(_BOXED)))
    numbers = _NUMBER.findall(completion)
    return numbers[-1] if numbers else _MATH_NOISE.sub("", completion)


def json_answer_key(completion: str) -> str:
    """Without spaces and the order of keys; text that is no JSON stands for itself."""
    try:
        return json.dumps(json.loads(completion), sort_keys=True)
    except (ValueError, RecursionError):
        return completion.strip()


def _until_closed(text: str, start: int) -> str:
    depth = 1
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start:position]
    return text[start:]


def _countdown_key(completion: str) -> str:
    """The canonical trace; text that is no sound trace stands for itself, spacing aside."""
    trace = countdown_answer_key(completion) if len(completion) <= MAX_COUNTDOWN_CHARACTERS else None
    return " ".join(completion.split()) if trace is None else trace

"""What a record of a data set has to hold, and how it is read.

The service refuses bad records when an experiment is submitted; the workers read the same records again during the run.
Both use this module, so they can't disagree. Standard library only.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from service.contract.answer_forms import gold_text
from service.contract.data import PromptData, SupervisedData

ROLES = ("system", "developer", "user", "assistant", "tool")

_SHOWN_CHARACTERS = 40


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


Conversation = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class TextPair:
    """A prompt and its completion, as plain text."""

    prompt: str
    completion: str


class RecordFault(ValueError):
    """A record cannot be used; the message says what is wrong, `hint` what to do."""

    def __init__(self, part: str, problem: str, hint: str) -> None:
        super().__init__(problem)
        self.part = part
        """The setting that names the key at fault, such as `prompt_field`; `path` if it is the record as a whole."""
        self.hint = hint


def read_supervised(record: Mapping[str, Any], data: SupervisedData) -> TextPair | Conversation:
    """What is trained of one record: a conversation where there is a chat, else plain text. Raises RecordFault."""
    match data.records:
        case "messages":
            return _answered(read_messages(record, "messages_field", data.messages_field))
        case "question_answer":
            asked = read_text(record, "question_field", data.question_field)
            return _single_turn(asked, read_text(record, "answer_field", data.answer_field))
        case "prompt_completion":
            prompt = read_text(record, "prompt_field", data.prompt_field)
            completion = read_text(record, "completion_field", data.completion_field)
            return TextPair(prompt, completion) if data.chat is None else _single_turn(prompt, completion)


def read_prompt(record: Mapping[str, Any], data: PromptData) -> tuple[str | Conversation, str]:
    """Prompt and gold answer of one record: with `chat` the prompt is a conversation. Raises RecordFault."""
    answer = read_answer(record, data)
    if data.chat is None:
        return read_text(record, "prompt_field", data.prompt_field), answer
    if isinstance(record.get(data.prompt_field), str):
        return (Message("user", read_text(record, "prompt_field", data.prompt_field)),), answer
    messages = read_messages(record, "prompt_field", data.prompt_field)
    if messages[-1].role == "assistant":
        problem = f"{data.prompt_field!r} ends with an assistant's message, so there is nothing to answer"
        raise RecordFault("prompt_field", problem, "end the prompt with the message that is to be answered")
    return messages, answer


def read_answer(record: Mapping[str, Any], data: PromptData) -> str:
    """The gold answer of one record. Raises RecordFault if there is none, or not in the form that was said."""
    value = _value(record, "answer_field", data.answer_field)
    try:
        answer = gold_text(value, data.answer_form)
    except ValueError as error:
        hint = f"answer_form is {data.answer_form!r}; change it, or mend the row"
        raise RecordFault("answer_field", f"{data.answer_field!r} {error}", hint) from error
    return _text(answer, "answer_field", data.answer_field)


def lacks_answer(record: Mapping[str, Any], data: PromptData) -> bool:
    """Whether the record is one that `without_answer: drop` leaves out: no key, nothing under it, or a blank text."""
    if data.without_answer == "error":
        return False
    value = _found(record, data.answer_field)
    return value is None or (isinstance(value, str) and not value.strip())


def read_text(record: Mapping[str, Any], part: str, key: str) -> str:
    """The text under a key. Raises RecordFault if it is missing, no text, or blank."""
    return _text(_value(record, part, key), part, key)


def _text(value: object, part: str, key: str) -> str:
    if not isinstance(value, str):
        raise RecordFault(part, f"{key!r} is {_shown(value)}, which is no text", "put the value into quotes")
    if not value.strip():
        raise RecordFault(part, f"{key!r} is empty", "fill it or drop the row")
    return value


def read_messages(record: Mapping[str, Any], part: str, key: str) -> Conversation:
    """The conversation under a key. Raises RecordFault if it is none, or a message isn't a role and a text."""
    value = _value(record, part, key)
    hint = "write a list of {role, content}"
    if isinstance(value, str):
        raise RecordFault(part, f"{key!r} is text, no list of messages", hint + "; a CSV file cannot hold lists")
    if not isinstance(value, list):
        raise RecordFault(part, f"{key!r} is {_shown(value)}, which is no list of messages", hint)
    if not value:
        raise RecordFault(part, f"{key!r} is an empty list", "fill it or drop the row")
    return tuple(_message(entry, part, f"{key}[{index}]") for index, entry in enumerate(value))


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names the nearest known name, or all of them."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"its keys are: {', '.join(names) or '(none)'}"


def _single_turn(asked: str, answered: str) -> Conversation:
    return (Message("user", asked), Message("assistant", answered))


def _answered(messages: Conversation) -> Conversation:
    if not any(message.role == "assistant" for message in messages):
        raise RecordFault("messages_field", "no message is the assistant's, so nothing is trained", "drop the row")
    if messages[-1].role != "assistant":
        problem = f"the last message is from {messages[-1].role!r}, and nothing answers it"
        raise RecordFault("messages_field", problem, "end each conversation with an assistant's message")
    return messages


def _message(entry: object, part: str, where: str) -> Message:
    hint = "a message is {role, content}, both of them text"
    if not isinstance(entry, dict):
        raise RecordFault(part, f"{where} is {_shown(entry)}, no message", hint)
    role, content = entry.get("role"), entry.get("content")
    if role not in ROLES:
        raise RecordFault(part, f"{where} has the role {_shown(role)}", f"the roles are {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise RecordFault(part, f"{where} has the content {_shown(content)}, which is no text", hint)
    if role == "assistant" and not content.strip():
        raise RecordFault(part, f"{where} is an empty answer", "fill it or drop the row")
    # Tables give every message every key that any message has, and null where it lacks one.
    if further := sorted(key for key, value in entry.items() if key not in ("role", "content") and value is not None):
        raise RecordFault(part, f"{where} also has {', '.join(map(repr, further))}, which would not be trained", hint)
    return Message(str(role), content)


def _value(record: Mapping[str, Any], part: str, key: str) -> Any:
    if key in record:
        return record[key]
    if (value := _found(record, key)) is None:
        raise RecordFault(part, f"no key {key!r}", nearest(key, record))
    return value


def _found(record: Mapping[str, Any], key: str) -> Any:
    """What stands under a key, or under its dotted parts; None if nothing does."""
    if key in record:
        return record[key]
    value: Any = record
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return f"{text[:_SHOWN_CHARACTERS]}..." if len(text) > _SHOWN_CHARACTERS else text

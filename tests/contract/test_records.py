"""What a record may hold, said once for submission and run."""

from typing import Any

import pytest

from service.contract.data import ChatSpec, PromptData, SupervisedData
from service.contract.records import Message, RecordFault, TextPair, read_prompt, read_supervised
from service.contract.spec import ExperimentSpec

TURN = (Message("user", "a"), Message("assistant", "b"))
ASKED, ANSWERED = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


def supervised(**settings: Any) -> SupervisedData:
    return SupervisedData(path="/rows", **settings)


@pytest.mark.parametrize(
    ("record", "data", "read"),
    [
        ({"prompt": "a", "completion": "b"}, supervised(), TextPair("a", "b")),
        ({"prompt": "a", "completion": "b"}, supervised(chat=ChatSpec()), TURN),
        ({"question": "a", "response": "b"}, supervised(records="question_answer", answer_field="response"), TURN),
        ({"messages": [ASKED, ANSWERED | {"name": None}]}, supervised(records="messages"), TURN),
    ],
)
def test_records_of_each_kind(record: dict[str, Any], data: SupervisedData, read: object) -> None:
    assert read_supervised(record, data) == read


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ("a", "is text, no list of messages"),
        (7, "is 7, which is no list"),
        ([], "is an empty list"),
        (["a"], r"messages\[0\] is 'a', no message"),
        ([{"role": "human", "content": "a"}], "has the role 'human'"),
        ([{"role": "user", "content": None}], "has the content None"),
        ([ASKED, ANSWERED | {"content": " "}], r"messages\[1\] is an empty answer"),
        ([ASKED, ANSWERED | {"tool_calls": []}], "also has 'tool_calls'"),
        ([ASKED], "no message is the assistant's"),
        ([ASKED, ANSWERED, ASKED], "the last message is from 'user'"),
    ],
)
def test_messages_that_cannot_be_trained_are_faults(messages: Any, problem: str) -> None:
    with pytest.raises(RecordFault, match=problem) as fault:
        read_supervised({"messages": messages}, supervised(records="messages"))
    assert fault.value.part == "messages_field"


def test_prompts_are_texts_or_with_a_chat_conversations() -> None:
    plain, chat = PromptData(path="/rows"), PromptData(path="/rows", chat=ChatSpec())
    assert read_prompt({"prompt": "a", "answer": "x"}, plain) == ("a", "x")
    assert read_prompt({"prompt": "a", "answer": "x"}, chat) == (TURN[:1], "x")
    assert read_prompt({"prompt": [ASKED, ANSWERED, ASKED], "answer": "x"}, chat) == ((*TURN, TURN[0]), "x")
    with pytest.raises(RecordFault, match="which is no text"):
        read_prompt({"prompt": [ASKED], "answer": "x"}, plain)
    with pytest.raises(RecordFault, match="nothing to answer"):
        read_prompt({"prompt": [ASKED, ANSWERED], "answer": "x"}, chat)


def test_a_missing_key_is_answered_with_the_nearest() -> None:
    with pytest.raises(RecordFault, match="no key 'prompt'") as fault:
        read_supervised({"promt": "a"}, supervised())
    assert (fault.value.part, fault.value.hint) == ("prompt_field", "did you mean 'promt'?")


def test_an_experiments_chats_are_those_of_its_data_each_once() -> None:
    chat = {"system_prompt": "Be brief."}
    sft = {
        "data": {"path": "/rows", "records": "messages"},
        "optimizer": {"learning_rate": 1e-3},
        "num_epochs": 1,
        "batch_size": 1,
    }
    evaluation = {"reward": {"type": "exact_match"}, "max_completion_length": 8}
    body = {"name": "x", "model": {"path": "/m"}, "sft": sft}
    evaluation["data"] = {"path": "/rows", "chat": chat}
    spec = ExperimentSpec.model_validate(body | {"evaluation": evaluation})
    assert spec.chats() == (ChatSpec(), ChatSpec(system_prompt="Be brief."))
    evaluation["data"] = {"path": "/rows"}
    assert ExperimentSpec.model_validate(body | {"evaluation": evaluation}).chats() == (ChatSpec(),)

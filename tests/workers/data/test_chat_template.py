"""What is trained of a conversation is what the assistant says there, and the token that ends its turn."""

import pytest
from transformers import PreTrainedTokenizerBase

from service.contract.data import ChatSpec
from service.contract.records import Conversation, Message
from tests.workers.data import chat_templates as templates
from workers.config_error import ConfigError
from workers.data.chat_template import ChatTemplate, NotRenderable, turn_end_token_ids
from workers.data.token_sequence import TokenSequence
from workers.data.tokenization import tokenize_segments, trained_sequence

BYTES = templates.byte_tokenizer()
DATE = {"date_string": "26 Jul 2024"}
TWO_TURNS = ("Hello there", "It is 4.", "  what?", "\n\nthree lines")
KINDS = {
    "chatml": (templates.CHATML, "<|im_end|>"),
    "default system prompt": (templates.DEFAULT_SYSTEM, "<|im_end|>"),
    "date": (templates.DATED, "<|eot|>"),
    "no system role": (templates.NO_SYSTEM, "<end_of_turn>"),
    "no generation prompt": (templates.INSTRUCT, "<eos>"),
    "generation markers": (templates.MARKED, "<|im_end|>"),
}


def talk(*texts: str) -> Conversation:
    """User and assistant in turn."""
    return tuple(Message("user" if index % 2 == 0 else "assistant", text) for index, text in enumerate(texts))


def tokenize(
    template: ChatTemplate, conversation: Conversation, tokenizer: PreTrainedTokenizerBase = BYTES
) -> list[TokenSequence]:
    samples = template.samples(conversation)
    return list(map(trained_sequence, samples, tokenize_segments(tokenizer, samples)))


def trained_texts(sample: TokenSequence, tokenizer: PreTrainedTokenizerBase = BYTES) -> list[str]:
    """Each run of trained tokens, decoded."""
    flags = sample.is_trained or (True,) * len(sample.completion_token_ids)
    runs: list[list[int]] = []
    for token, flag, before in zip(sample.completion_token_ids, flags, (False, *flags), strict=False):
        if flag and not before:
            runs.append([])
        if flag:
            runs[-1].append(token)
    return [tokenizer.decode(run) for run in runs]


def whole_text(sample: TokenSequence) -> str:
    return str(BYTES.decode([*sample.prompt_token_ids, *sample.completion_token_ids]))


@pytest.mark.parametrize(("template", "end"), KINDS.values(), ids=KINDS)
def test_trained_tokens_are_the_answers_with_their_end_tokens(template: str, end: str) -> None:
    [sample] = tokenize(ChatTemplate(BYTES, ChatSpec(template=template, variables=DATE)), talk(*TWO_TURNS))
    assert [text.strip() for text in trained_texts(sample)] == [f"It is 4.{end}", f"three lines{end}"]


@pytest.mark.parametrize(("template", "end"), KINDS.values(), ids=KINDS)
def test_a_sample_is_the_rendered_conversation_up_to_its_last_end_token(template: str, end: str) -> None:
    chat = ChatTemplate(BYTES, ChatSpec(template=template, variables=DATE))
    [sample] = tokenize(chat, talk(*TWO_TURNS))
    messages = [{"role": message.role, "content": message.content} for message in talk(*TWO_TURNS)]
    rendered = BYTES.apply_chat_template(messages, chat_template=template, tokenize=False, **DATE)
    assert whole_text(sample) == rendered.rstrip()
    assert BYTES.convert_ids_to_tokens(chat.turn_end_token_id) == end


@pytest.mark.parametrize("system", [None, "You count."])
@pytest.mark.parametrize(
    "template", [*(kind[0] for kind in KINDS.values()), templates.THINKING], ids=[*KINDS, "thinking"]
)
def test_prompts_have_the_tokens_that_samples_have_before_the_answer(template: str, system: str | None) -> None:
    known = None if template == templates.NO_SYSTEM else system
    chat = ChatTemplate(BYTES, ChatSpec(template=template, variables=DATE, system_prompt=known))
    sample = tokenize(chat, talk(*TWO_TURNS))[-1]
    [prompt] = tokenize_segments(BYTES, [chat.prompt(talk(*TWO_TURNS[:3]))])
    asked = [token for segment in prompt for token in segment]
    whole = [*sample.prompt_token_ids, *sample.completion_token_ids]
    assert whole[: len(asked)] == asked
    assert BYTES.decode(whole[len(asked) :]).strip().startswith(("three", "<think>"))


def test_prompt_tokens_of_a_single_turn_are_those_of_its_text_alone() -> None:
    """Also where text and answer would share a token if they were tokenized together: '\\n' and '\\n\\nthree'."""
    [sample] = tokenize(ChatTemplate(BYTES, ChatSpec(template=templates.CHATML)), talk("Hello", "\n\nthree lines"))
    asked = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert list(sample.prompt_token_ids) == BYTES(asked, add_special_tokens=False)["input_ids"]
    together = BYTES(asked + "\n\nthree lines", add_special_tokens=False)["input_ids"]
    assert list(sample.prompt_token_ids) != together[: len(sample.prompt_token_ids)]


def test_a_turn_that_later_turns_alter_is_trained_in_a_sample_of_its_own() -> None:
    chat = ChatTemplate(BYTES, ChatSpec(template=templates.THINKING))
    conversation = talk("Hello", "<think>\nhm\n</think>\n\nIt is 4.", "what?", "<think>\nso\n</think>\n\nthree")
    first, second = tokenize(chat, conversation)
    assert trained_texts(first) == ["<think>\nhm\n</think>\n\nIt is 4.<|im_end|>"]
    assert trained_texts(second) == ["<think>\nso\n</think>\n\nthree<|im_end|>"]
    # What the second is asked shows the first as the model will see it there: without its thoughts.
    assert "assistant\nIt is 4.<|im_end|>" in BYTES.decode(second.prompt_token_ids)


def test_a_system_prompt_that_moves_makes_samples_of_their_own() -> None:
    chat = ChatTemplate(BYTES, ChatSpec(template=templates.INSTRUCT, system_prompt="You count."))
    first, second = tokenize(chat, talk(*TWO_TURNS))
    assert [trained_texts(first), trained_texts(second)] == [[" It is 4.<eos>"], [" \n\nthree lines<eos>"]]
    assert BYTES.decode(first.prompt_token_ids) == "<bos>[INST] You count.\n\nHello there [/INST]"


def test_variables_reach_the_template() -> None:
    chat = ChatTemplate(BYTES, ChatSpec(template=templates.THINKING, variables={"enable_thinking": False}))
    [sample] = tokenize(chat, talk("Hello", "It is 4."))
    assert trained_texts(sample) == ["It is 4.<|im_end|>"]
    assert BYTES.decode(sample.prompt_token_ids).endswith("<think>\n\n</think>\n\n")


def test_a_system_prompt_stands_first_unless_the_record_has_one() -> None:
    chat = ChatTemplate(BYTES, ChatSpec(template=templates.DEFAULT_SYSTEM, system_prompt="You count."))
    [given] = tokenize(chat, talk("Hello", "Hi"))
    [own] = tokenize(chat, (Message("system", "Be brief."), *talk("Hello", "Hi")))
    assert "You count." in whole_text(given)
    assert "Be brief." in whole_text(own) and "You count." not in whole_text(own)


@pytest.mark.parametrize("scheme", ["always", "first", "never"])
def test_tokenizers_that_mark_words_keep_turns_exact(scheme: str) -> None:
    tokenizer = templates.spaced_tokenizer(scheme)
    chat = ChatTemplate(tokenizer, ChatSpec(template=templates.INSTRUCT))
    [sample] = tokenize(chat, talk("Hello there", "It is 4.", "what is", "2 + 2?"), tokenizer)
    assert [text.strip() for text in trained_texts(sample, tokenizer)] == ["It is 4.<eos>", "2 + 2?<eos>"]
    whole = tokenizer.apply_chat_template(
        [
            {"role": message.role, "content": message.content}
            for message in talk("Hello there", "It is 4.", "what is", "2 + 2?")
        ],
        chat_template=templates.INSTRUCT,
        return_dict=False,
    )
    assert [*sample.prompt_token_ids, *sample.completion_token_ids] == whole


def test_an_end_token_that_swallows_white_space_leaves_none_to_the_next_turn() -> None:
    tokenizer = templates.byte_tokenizer(swallowing="<|im_end|>")
    texts = ("Hello there", "It is 4.", "what?", "three lines")
    [sample] = tokenize(ChatTemplate(tokenizer, ChatSpec(template=templates.CHATML)), talk(*texts), tokenizer)
    messages = [{"role": message.role, "content": message.content} for message in talk(*texts)]
    whole = tokenizer.apply_chat_template(messages, chat_template=templates.CHATML, return_dict=False)
    assert [*sample.prompt_token_ids, *sample.completion_token_ids] == whole
    assert trained_texts(sample, tokenizer) == ["It is 4.<|im_end|>", "three lines<|im_end|>"]


def test_a_date_from_the_clock_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"writes today's date.*chat.variables: \{date_string"):
        ChatTemplate(BYTES, ChatSpec(template=templates.DATED))


def test_a_date_that_only_the_clock_could_give_comes_from_the_variables() -> None:
    template = "{{ strftime_now('%Y') }}" + templates.CHATML
    [sample] = tokenize(ChatTemplate(BYTES, ChatSpec(template=template, variables=DATE)), talk("Hello", "Hi"))
    assert whole_text(sample).startswith("26 Jul 2024")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (templates.THINKING_PROMPT, "cannot be told from the prompt"),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", "no token of its own marks the end"),
        ("{% for m in messages %}", "refuses the conversation"),
        ("{{ raise_exception('Not today') }}", "Not today"),
        ("{{ messages[7].content }}", "refuses the conversation"),
    ],
)
def test_a_template_that_cannot_be_masked_is_refused(template: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ChatTemplate(BYTES, ChatSpec(template=template))


def test_what_the_template_refuses_is_said() -> None:
    chat = ChatTemplate(BYTES, ChatSpec(template=templates.NO_SYSTEM))
    with pytest.raises(NotRenderable, match="System role not supported"):
        chat.samples((Message("system", "Be brief."), *talk("Hello", "Hi")))


def test_an_answer_that_holds_the_end_token_is_refused() -> None:
    chat = ChatTemplate(BYTES, ChatSpec(template=templates.CHATML))
    with pytest.raises(NotRenderable, match="take it out"):
        chat.samples(talk("Hello", "Hi<|im_end|>"))


def test_a_tokenizer_without_template_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no chat template; give data\.chat\.template"):
        ChatTemplate(BYTES, ChatSpec())


def test_names_that_the_renderer_needs_are_no_variables() -> None:
    with pytest.raises(ConfigError, match="messages, tokenize"):
        ChatTemplate(BYTES, ChatSpec(template=templates.CHATML, variables={"messages": "x", "tokenize": True}))


def test_the_end_tokens_of_all_chats_are_found_once() -> None:
    chats = tuple(ChatSpec(template=template) for template in (templates.CHATML, templates.MARKED, templates.NO_SYSTEM))
    ends = BYTES.convert_tokens_to_ids(["<|im_end|>", "<end_of_turn>"])
    assert turn_end_token_ids(BYTES, chats) == tuple(ends)

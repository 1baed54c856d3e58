"""Conversations as text, cut where the assistant's turns begin and end: the mask of what is trained.

A chat template is a program that may write a date, a default system prompt or a header, and may write an earlier turn
differently once a later one follows. So nothing is assumed about what a turn looks like: the conversation is rendered
up to each of the assistant's turns with the generation prompt, which is what the model reads when it has to answer, and
then with the answer. What the second text adds to the first, up to the token that ends a turn, is what the model has to
say there, and that is what is trained:

    rendered up to the turn     <user>Hi<end>\n<assistant>
    rendered with the turn      <user>Hi<end>\n<assistant>Hello<end>\n
    trained                                               Hello<end>

Where the first is no beginning of the second, nothing can be told apart, and the template is refused.

A turn that a later rendering shows otherwise (reasoning removed from earlier turns, a system prompt moved to the newest
question) is no longer what the model said when it was its turn. Such a turn is trained in a sample of its own, which
ends with it; all turns that agree with the longest rendering share one sample.
"""

import inspect
import json
from copy import copy
from dataclasses import dataclass
from hashlib import sha256

from jinja2 import TemplateError
from transformers import AddedToken, PreTrainedTokenizerBase

from service.contract.data import ChatSpec
from service.contract.records import Conversation, Message
from workers.config_error import ConfigError, first_line

_PROBE = (Message("user", "Hello"), Message("assistant", "Hi"))
_SHOWN_CHARACTERS = 60


class NotRenderable(Exception):
    """The template cannot make text of this conversation, or its trained part cannot be told apart."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of rendered text. Segments are tokenized apart, so that each of the assistant's turns begins a token."""

    text: str
    is_trained: bool


@dataclass(frozen=True, slots=True)
class _Turn:
    """One of the assistant's turns: `text` runs from the conversation's start to the turn's end token."""

    start: int
    text: str


class ChatTemplate:
    """A tokenizer's chat template, or a given one, with its system prompt and variables."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, chat: ChatSpec) -> None:
        """Raises ConfigError if there is no template, it fails, or its turns cannot be told apart or never end."""
        self._tokenizer = tokenizer
        self._chat = chat
        self._template = chat.template or _own_template(tokenizer)
        _refuse_reserved(tokenizer, chat)
        try:
            self._turn_end = self._find_turn_end()
        except NotRenderable as error:
            raise ConfigError(f"chat template: {error}") from error

    @property
    def turn_end_token_id(self) -> int:
        """The token that ends the assistant's turn. It is trained, and generation has to stop at it."""
        return int(self._tokenizer.convert_tokens_to_ids(self._turn_end.content))

    def sha256(self) -> str:
        """Digest of template, system prompt and variables."""
        settings = self._chat.model_dump() | {"template": self._template}
        return sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def samples(self, messages: Conversation) -> list[tuple[Segment, ...]]:
        """The conversation as one sample, or as several where later renderings alter earlier turns.

        Every turn of the assistant is trained in exactly one sample. Raises NotRenderable.
        """
        turns = self._turns(self._with_system_prompt(messages))
        pending, samples = turns, []
        while pending:
            whole = pending[-1].text
            within = [turn for turn in turns if whole.startswith(turn.text)]
            samples.append(self._cut(whole, within, trained=pending))
            pending = [turn for turn in pending if turn not in within]
        return samples[::-1]

    def prompt(self, messages: Conversation) -> tuple[Segment, ...]:
        """What the model reads before it answers, cut as the sample that trains the answer. Raises NotRenderable."""
        messages = self._with_system_prompt(messages)
        whole = self._render(messages, to_be_answered=True)
        within = [turn for turn in self._turns(messages) if whole.startswith(turn.text)]
        return self._cut(whole, within, trained=[])

    def _cut(self, whole: str, within: list[_Turn], *, trained: list[_Turn]) -> tuple[Segment, ...]:
        segments, done = [], 0
        for turn in within:
            segments.append(Segment(self._behind_turn(whole[done : turn.start], done), False))
            segments.append(Segment(whole[turn.start : len(turn.text)], turn in trained))
            done = len(turn.text)
        segments.append(Segment(self._behind_turn(whole[done:], done), False))
        return tuple(segment for segment in segments if segment.text)

    def _behind_turn(self, text: str, place: int) -> str:
        """What a segment at this place leaves to be tokenized: some end tokens swallow the white space behind them."""
        return text.lstrip() if place and self._turn_end.rstrip else text

    def _with_system_prompt(self, messages: Conversation) -> Conversation:
        prompt = self._chat.system_prompt
        if prompt is None or any(message.role == "system" for message in messages):
            return messages
        return (Message("system", prompt), *messages)

    def _turns(self, messages: Conversation) -> list[_Turn]:
        return [self._turn(messages, index) for index, message in enumerate(messages) if message.role == "assistant"]

    def _turn(self, messages: Conversation, index: int) -> _Turn:
        end = self._turn_end.content
        if end in messages[index].content:
            raise NotRenderable(f"an answer holds {end!r}, the token that ends it; take it out of the text")
        start, answered = self._before_and_with(messages, index)
        text = answered.rstrip()
        if not text.endswith(end) or len(text) - len(end) < start:
            raise NotRenderable(
                f"the template ends this turn with {_end(text)!r} and others with {end!r}, so generation "
                "would not know where to stop; give chat.template with one end token for all turns"
            )
        return _Turn(start, text)

    def _before_and_with(self, messages: Conversation, index: int) -> tuple[int, str]:
        """Length of what the model reads before the turn, and the text with the turn, which begins with it."""
        before = self._render(messages[:index], to_be_answered=True)
        answered = self._render(messages[: index + 1], to_be_answered=False)
        if not answered.startswith(before):
            raise NotRenderable(
                f"the template writes {_end(before)!r} before an answer, but not once the answer is there, so what is "
                "trained cannot be told from the prompt; give chat.template (or chat.variables) with which an "
                "answered conversation begins as the unanswered one with its generation prompt"
            )
        return len(before), answered

    def _find_turn_end(self) -> AddedToken:
        probe = self._with_system_prompt(_PROBE)
        start, answered = self._before_and_with(probe, len(probe) - 1)
        turn = answered[start:].rstrip()
        ends = [token for token in self._tokenizer.added_tokens_decoder.values() if turn.endswith(token.content)]
        if not ends:
            raise NotRenderable(
                f"it ends an assistant's turn with {_end(turn)!r}, in which no token of its own marks the end; end the "
                f"turn with one, such as {self._tokenizer.eos_token!r}"
            )
        return max(ends, key=lambda token: len(token.content))

    def _render(self, messages: Conversation, *, to_be_answered: bool) -> str:
        try:
            rendered = self._tokenizer.apply_chat_template(
                [{"role": message.role, "content": message.content} for message in messages],
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=to_be_answered,
                **{"strftime_now": self._date, **self._chat.variables},
            )
        # Besides jinja's own errors, whatever the template's operations raise on values that they do not expect.
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise NotRenderable(f"the template refuses the conversation: {first_line(error)}") from error
        return str(rendered)

    def _date(self, _format: str) -> str:
        """Stands for the clock that templates may ask: samples must be the same tomorrow."""
        date = self._chat.variables.get("date_string")
        if date is None:
            raise NotRenderable(
                "it writes today's date, so the data would change from day to day; pin it with chat.variables: "
                "{date_string: 26 Jul 2024}"
            )
        return str(date)


def turn_end_token_ids(tokenizer: PreTrainedTokenizerBase, chats: tuple[ChatSpec, ...]) -> tuple[int, ...]:
    """The tokens that end the assistant's turn in these chats, each once. Raises ConfigError."""
    return tuple(dict.fromkeys(ChatTemplate(tokenizer, chat).turn_end_token_id for chat in chats))


def tokenizer_with_template(tokenizer: PreTrainedTokenizerBase, chats: tuple[ChatSpec, ...]) -> PreTrainedTokenizerBase:
    """The tokenizer as it is exported: with the template that was given for training, if one was, as its own."""
    given = next((chat.template for chat in chats if chat.template is not None), None)
    if given is None:
        return tokenizer
    exported = copy(tokenizer)
    exported.chat_template = given
    return exported


def _own_template(tokenizer: PreTrainedTokenizerBase) -> str:
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:
        raise ConfigError(
            "the data are conversations, but the model's tokenizer has no chat template; give data.chat.template, or "
            "use records 'prompt_completion' without chat"
        ) from error


def _refuse_reserved(tokenizer: PreTrainedTokenizerBase, chat: ChatSpec) -> None:
    reserved = {"messages", *inspect.signature(tokenizer.apply_chat_template).parameters}
    if taken := sorted(reserved & set(chat.variables)):
        raise ConfigError(f"chat.variables: {', '.join(taken)} is not free to be given; rename it in the template")


def _end(text: str) -> str:
    return text[-_SHOWN_CHARACTERS:]

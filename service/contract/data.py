"""Where prompts, completions and gold answers come from."""

from typing import Literal, Self

from pydantic import Field, model_validator

from service.contract.strict_model import StrictModel


class ChatSpec(StrictModel):
    """How messages become text: by the tokenizer's chat template, or by one given here."""

    template: str | None = Field(default=None, min_length=1)
    """A Jinja chat template; left out: the tokenizer's own."""
    system_prompt: str | None = None
    """Put first where a record has no system message of its own."""
    variables: dict[str, str | bool | int] = {}
    """Given to the template by name, such as `date_string`, which templates otherwise take from the clock."""


class DataSource(StrictModel):
    """Records from a file, or from a Hugging Face dataset."""

    type: Literal["jsonl", "parquet", "csv", "huggingface"] = "jsonl"
    path: str = Field(min_length=1)
    """A file path or an fsspec URL that both the service and the workers can read; for `huggingface` a folder, or
    `owner/name` on the hub."""
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    """The commit of a hub dataset; a name without one could mean other data tomorrow and is refused."""
    config: str | None = Field(default=None, min_length=1)
    """Of a `huggingface` dataset that has several."""
    split: str | None = Field(default=None, min_length=1)
    """Of a `huggingface` dataset; left out: `train`."""
    chat: ChatSpec | None = None
    """Render records as a conversation. Left out: plain text, except for records that are conversations anyway."""

    @property
    def chat_in_effect(self) -> ChatSpec | None:
        """How this data's conversations are rendered; None where its records are plain text."""
        return self.chat

    @property
    def is_on_hub(self) -> bool:
        """Whether `path` names a dataset on the hub and no place on a file system."""
        return self.type == "huggingface" and not self.path.startswith("/") and "://" not in self.path

    @model_validator(mode="after")
    def _hub_settings_fit(self) -> Self:
        if self.type != "huggingface":
            given = [name for name in ("revision", "config", "split") if getattr(self, name) is not None]
            if given:
                raise ValueError(f"{', '.join(given)} only mean something with type 'huggingface', not {self.type!r}")
        elif self.is_on_hub and self.revision is None:
            raise ValueError(
                f"{self.path!r} names a dataset on the hub without a revision, so its rows could change between runs; "
                "give the commit's 40 hexadecimal digits as revision"
            )
        return self


class SupervisedData(DataSource):
    """Samples of which the assistant's part, end tokens included, is trained."""

    records: Literal["prompt_completion", "question_answer", "messages"] = "prompt_completion"
    """`question_answer` is a conversation of one turn; `messages` a list of `{role, content}`, whose assistant turns
    are trained."""
    prompt_field: str = "prompt"
    completion_field: str = "completion"
    question_field: str = "question"
    answer_field: str = "answer"
    """Name it `response` where the data calls it so."""
    messages_field: str = "messages"

    @property
    def chat_in_effect(self) -> ChatSpec | None:
        """Questions with answers and messages are conversations even without `chat`."""
        return self.chat if self.records == "prompt_completion" else self.chat or ChatSpec()


class PromptData(DataSource):
    """Prompts with a gold answer each. The place of a record in its source, from 0, is the prompt's uid."""

    prompt_field: str = "prompt"
    """Text, or with `chat` also a list of messages."""
    answer_field: str = "answer"

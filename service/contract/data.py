"""Where prompts, completions and gold answers come from."""

from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from service.contract.data_sets import filled_data
from service.contract.strict_model import StrictModel

AnswerForm = Literal["text", "number", "after_hashes", "last_boxed", "first_of_list"]


def _path_may_come_from_a_set(schema: dict[str, Any]) -> None:
    schema["required"].remove("path")
    if not schema["required"]:
        del schema["required"]


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

    model_config = ConfigDict(json_schema_extra=_path_may_come_from_a_set)

    set: str | None = None
    """A data set by its name (`sedray data sets`): fills what is left out, and `path` makes it a file of the user's."""
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
    skip_rows: int = Field(default=0, ge=0)
    """The first so many rows are passed over."""
    num_rows: int | None = Field(default=None, ge=1)
    """So many of the rows that follow; left out: all."""
    expected_rows: int | None = Field(default=None, ge=1)
    """Of the whole source, where it is known: data with another number are not those that were meant, and refused."""
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

    @model_validator(mode="before")
    @classmethod
    def _fill_from_the_set(cls, body: Any) -> Any:
        return filled_data(body, "supervised") if isinstance(body, dict) else body

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
    """Dots lead into objects: `reward_model.ground_truth`."""
    answer_form: AnswerForm = "text"
    """Where the gold answer stands under that key: it is the `text`; a `number`, as text or not; `after_hashes`, the
    last `####`; in the `last_boxed` of a solution; the `first_of_list`."""
    without_answer: Literal["error", "drop"] = "error"
    """What happens to rows whose answer is missing or blank. Those dropped are asked nowhere and keep their number."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_the_set(cls, body: Any) -> Any:
        return filled_data(body, "prompts") if isinstance(body, dict) else body

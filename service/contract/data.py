"""Where prompts, completions and gold answers come from, and how a completion is judged."""

from typing import Annotated, Literal

from pydantic import Field

from service.contract.strict_model import StrictModel


class JsonlPromptCompletions(StrictModel):
    """Supervised pairs, one JSON object a line. The completion, with an end-of-sequence token, is trained."""

    type: Literal["jsonl"] = "jsonl"
    path: str = Field(min_length=1)
    """A file path or an fsspec URL that both the service and the workers can read."""
    prompt_field: str = "prompt"
    completion_field: str = "completion"


class JsonlPrompts(StrictModel):
    """Prompts with a gold answer each, one JSON object a line. The line number is the prompt's uid."""

    type: Literal["jsonl"] = "jsonl"
    path: str = Field(min_length=1)
    prompt_field: str = "prompt"
    answer_field: str = "answer"


class CountdownReward(StrictModel):
    """1.0 for a legal trace that reaches the target of the gold answer (`3 5 7 -> 22`), else 0.0."""

    type: Literal["countdown"] = "countdown"


class ExactMatchReward(StrictModel):
    """1.0 if the completion equals the gold answer after stripping outer white space, else 0.0."""

    type: Literal["exact_match"] = "exact_match"


RewardSpec = Annotated[CountdownReward | ExactMatchReward, Field(discriminator="type")]

"""How completions are judged: what a specification may ask for.

Countdown and exact match take a bounded time and are judged where the stage runs. All other rewards are judged in
processes of their own, each sample with a deadline.
"""

import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, field_validator, model_validator

from service.contract.strict_model import StrictModel

ANSWER_GROUP = "answer"
"""The named group of a regular expression that is compared with the gold answer."""

OnError = Literal["zero", "drop", "fail"]


class CountdownReward(StrictModel):
    """1.0 for a legal trace that reaches the target of the gold answer (`3 5 7 -> 22`), else 0.0."""

    type: Literal["countdown"] = "countdown"


class ExactMatchReward(StrictModel):
    """1.0 if the completion equals the gold answer after stripping outer white space, else 0.0."""

    type: Literal["exact_match"] = "exact_match"


class ProcessReward(StrictModel):
    """What rewards have in common that are judged in processes of their own."""

    timeout_s: float = Field(default=10.0, gt=0.0, le=600.0)
    """For one sample. A process that takes longer is killed and replaced; the others go on."""
    on_error: OnError = "zero"
    """What a sample gets that could not be judged: its process died, took too long, or raised. `zero`: reward 0.
    `drop`: in RL the mean of its group's judged samples, so that it neither wins nor loses against them; in an
    evaluation its prompt is left out. `fail`: the run ends. Each such sample is counted in the metrics."""
    num_workers: int = Field(default=2, ge=1, le=64)
    """Processes, and so samples judged at a time."""
    max_memory_mb: int | None = Field(default=4096, ge=256)
    """Address space of one process; None: no limit."""


class MathAnswerReward(ProcessReward):
    """1.0 if the completion's final answer equals the gold answer as mathematics (math-verify), else 0.0."""

    type: Literal["math_answer"] = "math_answer"
    unreadable_gold: Literal["error", "text"] = "error"
    """What happens to gold answers that math-verify cannot parse, such as `no solution`: they are refused, or compared
    as `text` with the completion's last box, spaces and dollar signs aside."""


class RegexReward(ProcessReward):
    """1.0 if the pattern is found in the completion; with a group named `answer`, if the last one found, outer white
    space aside, is the gold answer."""

    type: Literal["regex"] = "regex"
    pattern: str = Field(min_length=1, max_length=10_000)
    """Of Python's `re`; a dot matches line breaks too."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern, re.DOTALL)
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression of Python's re: {error}") from error
        return pattern

    @property
    def compares_gold(self) -> bool:
        """Whether the gold answer decides, and not the pattern alone."""
        return ANSWER_GROUP in re.compile(self.pattern).groupindex


class JsonSchemaReward(ProcessReward):
    """1.0 if the completion is JSON that fits the schema (draft 2020-12 unless `$schema` names another), else 0.0."""

    type: Literal["json_schema"] = "json_schema"
    json_schema: dict[str, JsonValue] | None = None
    """Left out: each row's gold answer is the schema for its completions."""


class PythonFunctionReward(ProcessReward):
    """The number that a Python function returns: `def reward(prompt: str, completion: str, answer: str) -> float`."""

    type: Literal["python_function"] = "python_function"
    function: str = Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")
    """As `module:function`; called with keywords."""
    working_dir: str | None = Field(default=None, pattern=r"^/")
    """The folder in which the module lies and in which the function runs; left out: the Ray job's working directory."""


class CodeTestsReward(ProcessReward):
    """1.0 if the completion's Python program passes the tests in the gold answer, else 0.0.

    The program is the completion's last fenced code block, or all of it without one. It runs with limits on time,
    memory, file size and processes, but sees the files that the workers see.
    """

    type: Literal["code_tests"] = "code_tests"
    tests: Literal["asserts", "stdin_stdout"] = "asserts"
    """`asserts`: the gold answer is Python that runs after the program, in its namespace, and must not raise.
    `stdin_stdout`: it is a JSON list of `{"input": "…", "output": "…"}`; each runs the program anew."""
    max_program_memory_mb: int = Field(default=1024, ge=64)
    require_isolation: bool = False
    """Refuse to run programs where the kernel grants no namespace without network."""

    @model_validator(mode="after")
    def _program_fits(self) -> Self:
        if self.max_memory_mb is not None and self.max_program_memory_mb > self.max_memory_mb:
            raise ValueError(
                f"max_program_memory_mb {self.max_program_memory_mb} is more than max_memory_mb {self.max_memory_mb} "
                "of the process that starts the programs; raise the latter"
            )
        return self


class HttpJudgeReward(ProcessReward):
    """The `score` that a service answers with: POST of `{"prompt", "completion", "answer"}`, reply `{"score": 0.5}`."""

    type: Literal["http_judge"] = "http_judge"
    url: str = Field(max_length=2000)
    token_env: str | None = Field(default=None, pattern=r"^[A-Z_][A-Z0-9_]*$")
    """Name of the environment variable of the workers that holds the bearer token. The token itself never stands in a
    specification."""
    on_error: OnError = "drop"
    num_workers: int = Field(default=8, ge=1, le=64)
    num_retries: int = Field(default=3, ge=0, le=20)
    """After failed connections, timeouts and the statuses 429 and 5xx; `timeout_s` bounds each request."""

    @field_validator("url")
    @classmethod
    def _is_plain_http(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no http:// or https:// address")
        if parts.username is not None or parts.password is not None:
            raise ValueError("the address holds credentials, which everybody would read; use token_env")
        return url


SingleReward = Annotated[
    CountdownReward
    | ExactMatchReward
    | MathAnswerReward
    | RegexReward
    | JsonSchemaReward
    | PythonFunctionReward
    | CodeTestsReward
    | HttpJudgeReward,
    Field(discriminator="type"),
]


class RewardPart(StrictModel):
    """One reward of several."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")
    """In metrics: `rewards/{name}/mean`."""
    weight: float = Field(default=1.0, allow_inf_nan=False)
    reward: SingleReward


class CombinedReward(StrictModel):
    """The weighted sum of several rewards. 1.0 counts as solved, so let the weights sum to 1."""

    type: Literal["combined"] = "combined"
    parts: list[RewardPart] = Field(min_length=1, max_length=16)

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [part.name for part in self.parts]
        if len(set(names)) < len(names):
            raise ValueError(f"the parts are named {names}: give each its own name")
        return self


class AuditedReward(StrictModel):
    """A reward that another verifier checks on a share of the samples. The second opinion changes no reward."""

    type: Literal["audited"] = "audited"
    reward: Annotated[SingleReward | CombinedReward, Field(discriminator="type")]
    auditor: SingleReward
    fraction: float = Field(default=0.1, gt=0.0, le=1.0)
    """Share of the samples; prompt, sample and text decide which."""
    threshold: float = Field(default=0.5, allow_inf_nan=False)
    """They disagree where one score reaches it and the other does not."""


RewardSpec = Annotated[SingleReward | CombinedReward | AuditedReward, Field(discriminator="type")]


def single_rewards(reward: RewardSpec) -> list[SingleReward]:
    """All rewards that read the gold answer of a row."""
    match reward:
        case AuditedReward():
            return [*single_rewards(reward.reward), reward.auditor]
        case CombinedReward():
            return [part.reward for part in reward.parts]
        case _:
            return [reward]


def reward_part_names(reward: RewardSpec) -> list[str]:
    """The names of the scores that a completion's reward is made of; a single reward is named by its type."""
    match reward:
        case AuditedReward():
            return reward_part_names(reward.reward)
        case CombinedReward():
            return [part.name for part in reward.parts]
        case _:
            return [reward.type]

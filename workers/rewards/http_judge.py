"""A reward that a service gives: one request a sample, repeated where the service or the way to it fails."""

import os
import time

import httpx
from pydantic import BaseModel, FiniteFloat, ValidationError

from service.contract.rewards import HttpJudgeReward
from workers.config_error import ConfigError
from workers.rewards.samples import RewardSample, Undecided

MAX_REPLY_BYTES = 64 * 1024
MAX_PAUSE_S = 8.0
_FIRST_PAUSE_S = 0.5


class JudgeReply(BaseModel):
    """What the service answers; further keys are its own business."""

    score: FiniteFloat


class _TryAgain(Exception):
    pass


class HttpJudgeVerifier:
    """Posts `{"prompt", "completion", "answer"}` and reads `{"score"}`."""

    def __init__(self, spec: HttpJudgeReward, transport: httpx.BaseTransport | None = None) -> None:
        """Raises ConfigError if the environment lacks the token that the specification names."""
        self._spec = spec
        self._http = httpx.Client(timeout=spec.timeout_s, headers=_headers(spec.token_env), transport=transport)

    def score(self, sample: RewardSample) -> float:
        """The service's score. Raises Undecided after the last retry, or at an answer that makes no sense."""
        pause_s = _FIRST_PAUSE_S
        for retries_left in reversed(range(self._spec.num_retries + 1)):
            try:
                return self._ask(sample)
            except _TryAgain as error:
                if not retries_left:
                    raise Undecided(
                        f"the judge gave no score after {self._spec.num_retries} retries: {error}"
                    ) from error
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)
        raise AssertionError("the last try returns or raises")

    def _ask(self, sample: RewardSample) -> float:
        texts = {"prompt": sample.prompt, "completion": sample.completion, "answer": sample.answer}
        # Lone surrogates, which a completion cut within a character may hold, have no UTF-8.
        body = {name: text.encode("utf-8", "replace").decode() for name, text in texts.items()}
        try:
            with self._http.stream("POST", self._spec.url, json=body) as response:
                if response.status_code == 429 or response.status_code >= 500:
                    raise _TryAgain(f"status {response.status_code}")
                content = _limited(response)
        except httpx.TransportError as error:
            raise _TryAgain(f"{type(error).__name__}: {error}") from error
        if response.status_code != 200:
            raise Undecided(f"the judge refused the request: status {response.status_code}")
        try:
            return JudgeReply.model_validate_json(content).score
        except ValidationError as error:
            raise Undecided(f"the judge's answer holds no score: {error.errors()[0]['msg']}") from error


def judge_deadline_s(spec: HttpJudgeReward) -> float:
    """The longest that all tries of one sample and the pauses between them can take."""
    return (spec.num_retries + 1) * (2 * spec.timeout_s + MAX_PAUSE_S)


def _headers(token_env: str | None) -> dict[str, str]:
    if token_env is None:
        return {}
    # Read by name and here, in the process that needs it: the token passes through no specification and no log.
    token = os.environ.get(token_env, "")
    if not token:
        raise ConfigError(
            f"the workers' environment has no {token_env}, which reward.token_env names; set it where Ray's nodes start"
        )
    return {"Authorization": f"Bearer {token}"}


def _limited(response: httpx.Response) -> bytes:
    content = b""
    for chunk in response.iter_bytes():
        content += chunk
        if len(content) > MAX_REPLY_BYTES:
            raise Undecided(f"the judge's answer is longer than {MAX_REPLY_BYTES} bytes")
    return content

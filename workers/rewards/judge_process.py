"""A process that judges samples one after another until its input ends; `judge_pool` starts and kills it.

parent                              judge process
  ── the reward's specification ──────>
  <── {"ready": true} ─────────────────     or {"fatal": "why no sample can ever be judged"}
  ── a sample ─────────────────────────>
  <── {"score": 1.0} ──────────────────     or {"error": "…"}, or {"gold": "…"} for a gold answer that is none

Lines of JSON in ASCII. What the verifier prints goes nowhere: it could be endless, and must not pass for ours.
"""

import json
import math
import os
import sys
from dataclasses import fields
from typing import Any, BinaryIO

from pydantic import TypeAdapter

from service.contract.rewards import ProcessReward, SingleReward
from workers.config_error import ConfigError
from workers.rewards.build import build_verifier
from workers.rewards.process_limits import die_with_parent, limit_memory
from workers.rewards.samples import GoldUnreadable, RewardSample, Undecided, Verifier

MAX_MESSAGE_CHARACTERS = 500
_SPEC: TypeAdapter[SingleReward] = TypeAdapter(SingleReward)
_SAMPLE_FIELDS = [field.name for field in fields(RewardSample)]


def encode_spec(spec: SingleReward) -> bytes:
    """The first line."""
    return json.dumps(_SPEC.dump_python(spec, mode="json")).encode() + b"\n"


def encode_sample(sample: RewardSample) -> bytes:
    """A line; lone surrogates, which UTF-8 has no bytes for, are escaped."""
    return json.dumps({name: getattr(sample, name) for name in _SAMPLE_FIELDS}).encode() + b"\n"


def main() -> None:
    """Serve until the input ends."""
    die_with_parent(int(sys.argv[1]))
    incoming, outgoing = _take_pipes()
    try:
        verifier = _start(incoming.readline())
    except ConfigError as error:
        _say(outgoing, {"fatal": str(error)})
        return
    _silence()
    _say(outgoing, {"ready": True})
    for line in incoming:
        _say(outgoing, _answer(verifier, RewardSample(**json.loads(line))))


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The way to the parent, out of reach of whatever reads standard input or prints."""
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    return incoming, outgoing


def _silence() -> None:
    """Until here, standard error tells the parent why a start failed."""
    os.dup2(1, 2)


def _start(line: bytes) -> Verifier:
    spec = _SPEC.validate_json(line)
    if isinstance(spec, ProcessReward) and spec.max_memory_mb is not None:
        limit_memory(spec.max_memory_mb)
    return build_verifier(spec)


def _answer(verifier: Verifier, sample: RewardSample) -> dict[str, Any]:
    try:
        score = verifier.score(sample)
    except GoldUnreadable as error:
        return {"gold": _short(str(error))}
    except Undecided as error:
        return {"error": _short(str(error))}
    except (Exception, SystemExit) as error:  # of libraries and users' functions, on text that a model made up
        return {"error": _short(f"{type(error).__name__}: {error}")}
    if not math.isfinite(score):
        return {"error": f"the score is {score}, which is no finite number"}
    return {"score": score}


def _short(message: str) -> str:
    return message[:MAX_MESSAGE_CHARACTERS]


def _say(outgoing: BinaryIO, reply: dict[str, Any]) -> None:
    outgoing.write(json.dumps(reply).encode() + b"\n")
    outgoing.flush()

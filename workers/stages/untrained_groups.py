"""Finished but untrained groups as bytes for a checkpoint, and the prompts that a stage has consumed by then.

The prompts themselves are not written: the checkpoint's digest of the data binds it to them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from typing import Any

from workers.actors.trainer_results import ConsumedPrompts
from workers.config_error import ConfigError
from workers.rewards.reward_counts import RewardTally
from workers.rollouts import Completion, Prompt, VersionSpan
from workers.stages.sampling import JudgedGroup
from workers.stages.step_rollouts import FinishedGroups

FORMAT = 1


def data_digest(prompts: Sequence[Prompt]) -> str:
    """Of all prompts in their order, with their answers."""
    digest = sha256()
    for prompt in prompts:
        digest.update(json.dumps([prompt.uid, prompt.token_ids, prompt.answer]).encode() + b"\n")
    return digest.hexdigest()


def require_same_prompts(found: ConsumedPrompts, expected: ConsumedPrompts) -> None:
    """Raise ConfigError if a checkpoint's steps have consumed other prompts than the same steps would now."""
    if found != expected:
        raise ConfigError(
            f"the checkpoint has consumed {found.count} prompts of other data than rl.data names now; restore the data "
            "that the run began with, or submit the changed experiment as a new one"
        )


def encode_groups(parts: Sequence[FinishedGroups]) -> bytes:
    """As JSON; no bytes at all for no groups. Floats and token ids come back to the bit."""
    if not parts:
        return b""
    return json.dumps({"format": FORMAT, "parts": [_encoded(part) for part in parts]}).encode()


def decode_groups(content: bytes, prompts: Sequence[Prompt]) -> list[FinishedGroups]:
    """The groups of `encode_groups`. Raises ConfigError for another version's form."""
    if not content:
        return []
    body = json.loads(content)
    if body["format"] != FORMAT:
        raise ConfigError(
            f"the checkpoint's untrained groups have format {body['format']}, and this version reads {FORMAT}; "
            "go on with the version that wrote them"
        )
    by_uid = {prompt.uid: prompt for prompt in prompts}
    return [_decoded(part, by_uid) for part in body["parts"]]


def _encoded(part: FinishedGroups) -> dict[str, Any]:
    return {
        "step": part.step,
        "batch": part.batch,
        "places": list(part.groups),
        "groups": [_encoded_group(group) for group in part.groups.values()],
        "tally": asdict(part.tally),
    }


def _encoded_group(group: JudgedGroup) -> dict[str, Any]:
    return {
        "prompt_uid": group.prompt.uid,
        "completions": [asdict(completion) for completion in group.completions],
        "rewards": group.rewards,
        "reward_parts": [dict(parts) for parts in group.reward_parts],
        "num_dropped": group.num_dropped,
    }


def _decoded(part: Mapping[str, Any], by_uid: Mapping[int, Prompt]) -> FinishedGroups:
    groups = [_decoded_group(group, by_uid) for group in part["groups"]]
    return FinishedGroups(
        step=part["step"],
        batch=part["batch"],
        groups=dict(zip(part["places"], groups, strict=True)),
        tally=RewardTally(**part["tally"]),
    )


def _decoded_group(group: Mapping[str, Any], by_uid: Mapping[int, Prompt]) -> JudgedGroup:
    return JudgedGroup(
        prompt=by_uid[group["prompt_uid"]],
        completions=tuple(_decoded_completion(completion) for completion in group["completions"]),
        rewards=tuple(group["rewards"]),
        reward_parts=tuple(group["reward_parts"]),
        num_dropped=group["num_dropped"],
    )


def _decoded_completion(completion: Mapping[str, Any]) -> Completion:
    lists = {
        "token_ids": tuple(completion["token_ids"]),
        "logprobs": tuple(completion["logprobs"]),
        "version_spans": tuple(VersionSpan(**span) for span in completion["version_spans"]),
    }
    return Completion(**{**completion, **lists})

"""TRL: reward functions by their names, and what judges the same here."""

import re
from typing import Any

from service.foreign_configs.reading import Reading

_THINK = r"\A<think>(?!.*<think>).*?</think>"
_OVERLONG = "get_soft_overlong_punishment"
_OVERLONG_TOKENS = 256
_IMPORT_PATH = re.compile(r"^([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\.([A-Za-z_]\w*)$")


def take_rewards(reading: Reading) -> None:
    """`reward_funcs` with their weights become one reward; a punishment of length becomes the overlong buffer."""
    names = reading.value("reward_funcs") or []
    names = names.split() if isinstance(names, str) else [str(name) for name in names]
    weights = [float(weight) for weight in reading.value("reward_weights") or [1.0] * len(names)]
    if len(weights) != len(names):
        reason = f"{len(weights)} weights for {len(names)} functions"
        reading.tell("reward_weights", "no_equivalent", reason=reason, remedy="give one for each")
        weights = [1.0] * len(names)
    parts = [part for name, weight in zip(names, weights, strict=True) for part in _part(reading, name, weight)]
    if reading.has("reward_model_name_or_path"):
        reason = "reward models are services"
        remedy = "serve it, and set rl.reward to http_judge (docs/rewards.md)"
        reading.tell("reward_model_name_or_path", "no_equivalent", reason=reason, remedy=remedy)
    _put_reward(reading, parts)
    reading.read("reward_weights", "rl.reward", "the parts' weights")


def _put_reward(reading: Reading, parts: list[dict[str, Any]]) -> None:
    if not parts:
        remedy = "set rl.reward (docs/rewards.md)"
        reading.tell("reward_funcs", "no_equivalent", reason="no reward is left", remedy=remedy)
        return
    single = len(parts) == 1 and parts[0]["weight"] == 1.0
    reward = parts[0]["reward"] if single else {"type": "combined", "parts": parts}
    remedy = ""
    if any(part["reward"]["type"] == "python_function" for part in parts):
        remedy = "a function is called for one completion here: reward(prompt, completion, answer) (docs/rewards.md)"
    elif not single and abs(sum(part["weight"] for part in parts) - 1.0) > 1e-9:
        remedy = "1.0 counts as solved in evaluations: let the weights sum to 1"
    reading.take("reward_funcs", "rl.reward", reward, remedy=remedy)
    judged = [part for part in parts if part["reward"]["type"] == "math_answer"]
    if judged and "data" in reading.body["rl"]:
        reading.put("rl.data.answer_field", "solution")
        reason = "TRL's accuracy rewards read the column `solution`"
        reading.tell("(answer column)", "assumed", field="rl.data.answer_field", becomes="solution", reason=reason)


def _part(reading: Reading, name: str, weight: float) -> list[dict[str, Any]]:
    short = name.rsplit(".", 1)[-1].lower()[:40]
    match name:
        case "accuracy_reward" | "reasoning_accuracy_reward":
            reward: dict[str, Any] = {"type": "math_answer", "unreadable_gold": "text"}
        case "think_format_reward":
            reward = {"type": "regex", "pattern": _THINK}
        case "get_soft_overlong_punishment":
            reading.put("rl.overlong_buffer", {"len": _OVERLONG_TOKENS, "penalty_factor": weight})
            reason = "TRL's counts up to 1280 tokens, here up to max_completion_length"
            reading.tell("reward_funcs", "taken", field="rl.overlong_buffer", becomes=_OVERLONG_TOKENS, reason=reason)
            return []
        case _:
            found = _IMPORT_PATH.match(name)
            if found is None:
                reason = f"there is no reward {name!r}"
                reading.tell("reward_funcs", "no_equivalent", reason=reason, remedy="see docs/rewards.md")
                return []
            reward = {"type": "python_function", "function": f"{found[1]}:{found[2]}"}
    return [
        {
            "name": re.sub(r"[^a-z0-9_]", "_", short).lstrip("_0123456789") or "reward",
            "weight": weight,
            "reward": reward,
        }
    ]

"""Trackers that a run of another system logs to become mirrors."""

from typing import Any

from service.foreign_configs.reading import Reading

_REMEDY = "mirrors are off unless asked for; see docs/ecosystem.md for the address and the key"


def take_trackers(reading: Reading, key: str, value: Any, *, project: str) -> None:
    """`wandb`, `mlflow` and `tensorboard` have mirrors; others are told of."""
    names = [value] if isinstance(value, str) else list(value or [])
    mirrors, others = [], []
    for name in names:
        if (mirror := _mirror(str(name), project)) is not None:
            mirrors.append(mirror)
        elif name not in ("none", "console", "file", "rl_logging_board"):
            others.append(str(name))
    if mirrors:
        reading.take(key, "mirrors", mirrors, remedy=_REMEDY)
    if others:
        reason = f"there is no mirror for {', '.join(others)}"
        reading.tell(key, "no_equivalent", reason=reason, remedy="the page, or one of mlflow, wandb and tensorboard")
    elif not mirrors and reading.has(key):
        reading.tell(key, "not_needed", reason="metrics are stored, and live on the page")


def _mirror(name: str, project: str) -> dict[str, Any] | None:
    match name:
        case "wandb":
            return {"type": "wandb", "project": project, "mode": "offline"}
        case "mlflow":
            return {"type": "mlflow", "experiment": project}
        case "tensorboard":
            return {"type": "tensorboard"}
        case _:
            return None

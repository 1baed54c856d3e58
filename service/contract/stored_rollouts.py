"""Where the rollouts of reinforcement learning lie below an experiment's folder; workers write, the service reads."""

from re import fullmatch


def stored_rollouts_folder(output_dir: str) -> str:
    """The folder or fsspec URL of the steps' files."""
    return f"{output_dir.rstrip('/')}/rollouts/rl"


def stored_rollouts_name(step: int) -> str:
    """The name of a step's file; names sort by step."""
    return f"step-{step:08d}.parquet"


def step_of_stored_rollouts(name: str) -> int | None:
    """The step of a file, None for what is no such file: one that is being written, or somebody else's."""
    found = fullmatch(r"step-(\d{8,})\.parquet", name)
    return int(found[1]) if found else None

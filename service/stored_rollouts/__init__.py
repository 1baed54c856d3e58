"""The rollouts that an experiment keeps in its folder: listed, downloaded and asked for where they lie."""

from service.stored_rollouts.files import OpenStep, StoredStep, list_steps, open_step

__all__ = ["OpenStep", "StoredStep", "list_steps", "open_step"]

"""A reward that users write themselves: a function of prompt, completion and gold answer."""

import importlib
import os
import sys

from service.contract.rewards import PythonFunctionReward
from workers.config_error import ConfigError, first_line
from workers.rewards.samples import RewardSample, Undecided


class PythonFunctionVerifier:
    """Calls the function. It changes the process's folder and module path: one such verifier a process."""

    def __init__(self, spec: PythonFunctionReward) -> None:
        """Raises ConfigError if the function cannot be imported."""
        folder = spec.working_dir or os.getcwd()
        module_name, _, function_name = spec.function.partition(":")
        try:
            os.chdir(folder)
            sys.path.insert(0, folder)
            self._function = getattr(importlib.import_module(module_name), function_name)
        except Exception as error:  # whatever the user's module does when it is imported
            raise ConfigError(
                f"reward function {spec.function} cannot be imported from {folder}: {type(error).__name__}: "
                f"{first_line(error)}; put its module there, or name another folder in reward.working_dir"
            ) from error
        if not callable(self._function):
            raise ConfigError(f"{spec.function} in {folder} is no function; name one that can be called")

    def score(self, sample: RewardSample) -> float:
        """What the function returns. Raises Undecided if that is no number, and whatever the function raises."""
        value = self._function(prompt=sample.prompt, completion=sample.completion, answer=sample.answer)
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise Undecided(f"the function returned {value!r:.100}, which is no number") from error

"""The reward for programs that pass tests."""

import json
import re
import secrets
import time

from service.contract.gold_answers import parse_assert_tests, parse_stdin_tests
from service.contract.rewards import CodeTestsReward
from workers.config_error import ConfigError
from workers.rewards.samples import GoldUnreadable, RewardSample
from workers.rewards.sandbox import ProgramLimits, adopt_orphans, can_isolate, run_program

_FENCE = re.compile(r"^```[^\n`]*\n(.*?)^```", re.DOTALL | re.MULTILINE)

_HARNESS = """
import json, os, sys
task = json.load(sys.stdin)
out = os.dup(1)
null = os.open(os.devnull, os.O_RDWR)
os.dup2(null, 0); os.dup2(null, 1)
space = {"__name__": "__main__"}
exec(compile(task.pop("program"), "program.py", "exec"), space)
exec(compile(task.pop("tests"), "tests.py", "exec"), space)
os.write(out, task.pop("token").encode())
"""
"""Program and tests share a namespace. The token says that the last test was reached: an exit code would not, since the
program may exit first."""


class CodeTestsVerifier:
    """The program passes all tests of the gold answer."""

    def __init__(self, spec: CodeTestsReward) -> None:
        """Raises ConfigError if isolation is required and this machine has none."""
        self._spec = spec
        self._isolate = can_isolate()
        if spec.require_isolation and not self._isolate:
            raise ConfigError(
                "reward.require_isolation: the kernel of this machine grants no user namespace, so programs would have "
                "a network; allow unprivileged user namespaces there, or take the setting out"
            )
        adopt_orphans()

    def score(self, sample: RewardSample) -> float:
        """1.0 or 0.0. All runs of a sample together have `timeout_s`; a program that needs longer is wrong."""
        program = program_of(sample.completion)
        try:
            passed = self._passes_asserts if self._spec.tests == "asserts" else self._passes_cases
            return 1.0 if passed(program, sample.answer) else 0.0
        except ValueError as error:
            raise GoldUnreadable(str(error)) from error

    def _passes_asserts(self, program: str, answer: str) -> bool:
        tests, token = parse_assert_tests(answer), secrets.token_hex(16)
        task = json.dumps({"program": program, "tests": tests, "token": token})
        run = run_program(_HARNESS, task, self._limits(self._spec.timeout_s), isolate=self._isolate)
        return run.exit_code == 0 and run.output == token

    def _passes_cases(self, program: str, answer: str) -> bool:
        cases = parse_stdin_tests(answer)
        ends_at = time.monotonic() + self._spec.timeout_s
        for case in cases:
            left_s = ends_at - time.monotonic()
            if left_s <= 0:
                return False
            run = run_program(program, case.input, self._limits(left_s), isolate=self._isolate)
            if run.exit_code != 0 or _lines(run.output) != _lines(case.output):
                return False
        return True

    def _limits(self, timeout_s: float) -> ProgramLimits:
        return ProgramLimits(timeout_s=timeout_s, memory_mb=self._spec.max_program_memory_mb)


def program_of(completion: str) -> str:
    """The last fenced code block, or the whole text where there is none."""
    blocks: list[str] = _FENCE.findall(completion)
    return blocks[-1] if blocks else completion


def _lines(text: str) -> list[str]:
    """Without the spaces at the ends of lines and the empty lines at the end, which nobody can see."""
    return [line.rstrip() for line in text.rstrip().splitlines()]

"""The gate: every check in order, stopping at the first that fails. The closing line of pytest comes last.

`python .ci/gate.py` runs all of it, `python .ci/gate.py ruff mypy` some steps.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from size_caps import violations

REPOSITORY = Path(__file__).resolve().parent.parent
BIN = Path(sys.prefix) / "bin"
MYPY_TARGETS = (
    "api",
    "service",
    "workers",
    "bench",
    "migrations/env.py",
    "migrations/apply.py",
    ".ci/gate.py",
    ".ci/size_caps.py",
    ".ci/reference.py",
    ".ci/sed_pictures.py",
)
STEPS: dict[str, list[str]] = {
    "ruff": ["ruff", "check", "."],
    "format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy", *MYPY_TARGETS],
    "layers": ["lint-imports"],
    "sizes": [],
    "docs": ["mkdocs", "build", "--strict", "--clean"],
    "unit": ["pytest", "-q", "-m", "not slow", "-n", "4", "--dist", "worksteal"],
    "slow": ["pytest", "-q", "-m", "slow", "-n", "2", "--dist", "loadfile", "--durations=10"],
}
"""Name and command of each step; the sizes are measured in this process."""


_CLOSING = re.compile(r"\b\d+ (passed|failed|error)")
"""In pytest's closing line; libraries may still print something after it, while the process ends."""


def main(names: list[str]) -> int:
    """Runs the named steps, or all; returns the exit code."""
    if unknown := sorted(set(names) - set(STEPS)):
        print(f"no such step: {', '.join(unknown)}; the steps are {', '.join(STEPS)}", file=sys.stderr)
        return 2
    os.chdir(REPOSITORY)
    summary: list[str] = []
    closing: dict[str, str] = {}
    for name in [step for step in STEPS if not names or step in names]:
        print(f"── {name}", flush=True)
        began = time.monotonic()
        code, last_line = run_step(name)
        summary.append(f"{name:8} {'ok' if code == 0 else f'FAILED ({code})':12} {time.monotonic() - began:7.1f} s")
        if STEPS[name][:1] == ["pytest"]:
            closing[name] = last_line
        if code:
            break
    print("──", *summary, *(f"{name}: {line}" for name, line in closing.items()), sep="\n", flush=True)
    return 1 if code else 0


def run_step(name: str) -> tuple[int, str]:
    """Exit code, and pytest's closing line."""
    command = STEPS[name]
    if command:
        return _run([str(BIN / command[0]), *command[1:]])
    findings = violations(REPOSITORY)
    print(*findings, sep="\n", end="\n" if findings else "")
    return (1 if findings else 0), ""


def _run(command: list[str]) -> tuple[int, str]:
    """Runs a command with its output passed on as it comes."""
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
        "NO_MKDOCS_2_WARNING": "1",
    }
    if "-n" in command:
        environment["OMP_NUM_THREADS"] = "1"  # the test processes share the cores already
    last_line = ""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None, "the output is a pipe"
        for line in process.stdout:
            print(line, end="", flush=True)
            if _CLOSING.search(line):
                last_line = line.strip()
    return process.returncode, last_line


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

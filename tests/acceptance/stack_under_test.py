"""A real local stack for the acceptance tests: PostgreSQL, Ray, API and scheduler, started as a user does."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

from api.client import SedrayClient, ServiceUnreachable
from api.client.connection import find_connection, read_endpoint
from api.schemas import Experiment

REPOSITORY = Path(__file__).resolve().parents[2]
COUNTDOWN = REPOSITORY / "examples" / "countdown"
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """The running stack and a client of it."""

    data: Path
    process: subprocess.Popen[bytes]
    client: SedrayClient

    def child(self, module: str) -> psutil.Process:
        """The process that runs `python -m <module>`."""
        return wait_until(lambda: self._find(module), what=f"a process of {module}", deadline_s=30)

    def ray_jobs_of(self, experiment_id: str) -> list[psutil.Process]:
        """Drivers, actors and engine processes that belong to an experiment's attempts."""
        return [process for process in psutil.process_iter() if _belongs_to(process, experiment_id)]

    def _find(self, module: str) -> psutil.Process | None:
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if process.cmdline()[1:3] == ["-m", module]:
                    return process
            except psutil.Error:
                continue
        return None


def start_stack(data: Path) -> Stack:
    """Starts a stack on `data` and waits until it says that it is ready."""
    log = data.parent / f"{data.name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "service.embedded", "--data", str(data), "--num-cpus", "2"],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=data.parent,
            start_new_session=True,
        )

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        endpoint = read_endpoint(data)
        return endpoint is not None and endpoint["pid"] == process.pid

    wait_until(ready, what="the stack", deadline_s=120)
    connection = find_connection(data=data)
    return Stack(data=data, process=process, client=SedrayClient(connection.url, connection.token))


def stop_stack(stack: Stack) -> list[psutil.Process]:
    """Stops it as Ctrl-C does; returns those of its processes that outlive it."""
    family = psutil.Process(stack.process.pid).children(recursive=True)
    stack.client.close()
    stack.process.send_signal(signal.SIGINT)
    stack.process.wait(60)
    return psutil.wait_procs(family, timeout=10)[1]


def wait_until(condition: Callable[[], Found | None], *, what: str, deadline_s: float) -> Found:
    """Polls until `condition` gives something true; an AssertionError names `what` when it never does."""
    deadline = time.monotonic() + deadline_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not come within {deadline_s} s"
        time.sleep(0.2)
    return found


def small_spec(**changes: Any) -> dict[str, Any]:
    """A Countdown experiment of seconds, with both stages; `changes` replace top-level parts."""
    evaluation = {
        "data": {"path": str(COUNTDOWN / "data" / "test.jsonl")},
        "reward": {"type": "countdown"},
        "num_prompts": 16,
        "num_generations": 4,
        "pass_at_k": [1, 4],
        "max_completion_length": 16,
    }
    rl = {
        "data": {"path": str(COUNTDOWN / "data" / "rl.jsonl")},
        "reward": {"type": "countdown"},
        "optimizer": {"learning_rate": 3e-4},
        "num_steps": 4,
        "num_prompts_per_step": 4,
        "num_generations": 4,
        "max_completion_length": 16,
        "save_steps": 2,
    }
    sft = {
        "data": {"path": str(COUNTDOWN / "data" / "sft.jsonl")},
        "objective": {"type": "sed"},
        "optimizer": {"learning_rate": 1e-3},
        "num_epochs": 1,
        "batch_size": 64,
        "max_length": 32,
        "save_steps": 5,
    }
    spec: dict[str, Any] = {
        "name": "acceptance",
        "seed": 3,
        "model": {"path": str(COUNTDOWN / "base"), "max_model_len": 32},
        "sft": sft,
        "rl": rl,
        "evaluation": evaluation,
        "max_runtime_s": 900,
        # Each test runs all that it looks at.
        "reuse": "never",
    }
    return {**spec, **changes}


def long_rl_spec(num_steps: int) -> dict[str, Any]:
    """RL only, without evaluation: goes on until it is done or stopped."""
    rl = {**small_spec()["rl"], "num_steps": num_steps, "save_steps": 5}
    return small_spec(name="long", sft=None, evaluation=None, rl=rl)


def long_sft_spec(num_epochs: int) -> dict[str, Any]:
    """SFT only, ten steps an epoch, a checkpoint every five."""
    sft = {**small_spec()["sft"], "num_epochs": num_epochs}
    return small_spec(name="long SFT", rl=None, evaluation=None, sft=sft)


def kill_drivers(stack: Stack, experiment_id: str) -> None:
    """SIGKILL to whatever drives the experiment at the moment."""
    for process in stack.ray_jobs_of(experiment_id):
        if "workers.pipeline" in process.cmdline():
            process.kill()


def wait_for_checkpoint(stack: Stack, experiment_id: str, stage: str, step: int, *, deadline_s: float = 240) -> None:
    """Waits until the stage has a checkpoint after that step, or after a later one."""
    folder = stack.data / "outputs" / experiment_id / "checkpoints" / stage

    def written() -> bool:
        return any(path.name >= f"step-{step:08d}" for path in folder.glob("step-*"))

    wait_until(written, what=f"a checkpoint of {stage} step {step}", deadline_s=deadline_s)


def wait_for_stage_step(stack: Stack, experiment_id: str, stage: str, step: int, *, deadline_s: float = 240) -> None:
    """Waits until the stage has reached the step; fails at once if the experiment ends before."""

    def reached() -> bool:
        experiment = stack.client.experiment(experiment_id)
        assert not experiment.status.is_terminal, f"ended as {experiment.status}: {experiment.message}"
        progress = experiment.progress
        return progress is not None and progress.stage == stage and progress.step >= step

    wait_until(reached, what=f"{stage} step {step}", deadline_s=deadline_s)


def wait_for_end(stack: Stack, experiment_id: str, *, deadline_s: float = 300) -> Experiment:
    """The experiment after its end; the API may be away meanwhile."""

    def ended() -> Experiment | None:
        try:
            experiment = stack.client.experiment(experiment_id)
        except ServiceUnreachable:
            return None
        return experiment if experiment.status.is_terminal else None

    return wait_until(ended, what=f"the end of {experiment_id}", deadline_s=deadline_s)


def _belongs_to(process: psutil.Process, experiment_id: str) -> bool:
    try:
        return experiment_id in " ".join(process.environ().values())
    except psutil.Error:
        return False

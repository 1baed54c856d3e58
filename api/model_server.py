"""vLLM's OpenAI server on a model folder of this machine: started, waited for until it answers, and stopped.

vLLM is run as a command and never imported here.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import httpx

_STOP_S = 20.0
_LOOK_S = 0.5
_FIRST_TOKEN_S = 120.0
_LAST_LINES = 15
_NEEDED = ("config.json", "tokenizer_config.json")


class CannotServe(Exception):
    """The server did not come up, or cannot; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """What is served, where, and under which name."""

    folder: Path
    name: str
    host: str
    port: int
    api_key: str

    @property
    def url(self) -> str:
        """The address of the API."""
        return f"http://{self.host}:{self.port}"


def check_folder(folder: Path) -> None:
    """Raises CannotServe unless it looks like a Hugging Face model that is whole."""
    if not folder.is_dir():
        raise CannotServe(
            f"{folder} is no folder that this machine can see; bring the model here with: "
            "sedray export checkpoint ID FOLDER, then: sedray serve FOLDER"
        )
    missing = [name for name in _NEEDED if not (folder / name).is_file()]
    if missing or not any(folder.glob("*.safetensors")):
        lacks = ", ".join([*missing, *([] if any(folder.glob("*.safetensors")) else ["*.safetensors"])])
        raise CannotServe(f"{folder} is no whole model: it lacks {lacks}; export it again")


def free_port(host: str, wanted: int) -> int:
    """The port itself if it is free, any free one for 0. Raises CannotServe."""
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, wanted))
            return int(probe.getsockname()[1])
    except OSError as error:
        raise CannotServe(f"port {wanted} at {host} cannot be used: {error.strerror}; give another --port") from error


def new_key() -> str:
    """For the requests of this server alone."""
    return f"sk-{secrets.token_urlsafe(24)}"


def vllm_command(model: ServedModel, *, max_model_len: int | None, extra: Sequence[str] = ()) -> list[str]:
    """Without the key, which would stand in the list of processes. Raises CannotServe where vLLM is not installed."""
    if find_spec("vllm") is None:
        raise CannotServe("vllm is not installed here: pip install 'sedray[workers]', or 'vllm' for your GPUs")
    options = ["--host", model.host, "--port", str(model.port), "--served-model-name", model.name]
    options += ["--max-model-len", str(max_model_len)] if max_model_len else []
    # Compiling takes minutes on a CPU, and a GPU makes it good.
    options += [] if Path("/dev/nvidia0").exists() else ["--enforce-eager"]
    return [sys.executable, *_program(str(model.folder)), *options, *extra]


def _program(folder: str) -> list[str]:
    """The command `vllm` asks for a distribution of that name; builds for CPUs have another, and take the older way."""
    try:
        version("vllm")
    except PackageNotFoundError:
        return ["-m", "vllm.entrypoints.openai.api_server", "--model", folder]
    return ["-c", "from vllm.entrypoints.cli.main import main; main()", "serve", folder]


def environment_of(model: ServedModel, base: Mapping[str, str]) -> dict[str, str]:
    """The user's own with the key; nothing is fetched from a hub, and nobody is told of the use."""
    defaults = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_LOGGING_LEVEL": "INFO"}
    fixed = {
        "VLLM_API_KEY": model.api_key,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        # The plugin of the training engines has no part here.
        "VLLM_PLUGINS": "",
        "PYTHONUNBUFFERED": "1",
    }
    return {**defaults, **base, **fixed}


class ModelServer:
    """One server process. Leave it as a context manager, and it is gone with all that it has started."""

    def __init__(self, model: ServedModel, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.model = model
        file, name = tempfile.mkstemp(prefix="sedray-serve-", suffix=".log")
        self.log = Path(name)
        with os.fdopen(file, "wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
            )

    def __enter__(self) -> "ModelServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_until_ready(self, deadline_s: float, on_progress: Callable[[float, str], None]) -> None:
        """Until it has answered with a token: a server may call itself healthy without being able to.

        `on_progress` gets the seconds so far and the log's last line. Raises CannotServe.
        """
        began = time.monotonic()
        while not self._is_healthy():
            waited_s = time.monotonic() - began
            if self._process.poll() is not None:
                raise CannotServe(f"vLLM ended with exit code {self._process.returncode}:\n{self._tail()}")
            if waited_s > deadline_s:
                what = f"vLLM did not answer within {deadline_s:g} s; give it longer with --deadline"
                raise CannotServe(f"{what}. Its log ends:\n{self._tail()}")
            on_progress(waited_s, self._last_line())
            time.sleep(_LOOK_S)
        self._ask_for_a_token()

    def wait(self) -> int:
        """Until the process ends by itself; its exit code."""
        return self._process.wait()

    def stop(self) -> None:
        """Ask it to end, and kill what is left of it after a while."""
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_S)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _is_healthy(self) -> bool:
        try:
            return httpx.get(f"{self.model.url}/health", timeout=5.0).status_code == 200
        except httpx.TransportError:
            return False

    def _ask_for_a_token(self) -> None:
        body = {"model": self.model.name, "prompt": "1", "max_tokens": 1}
        headers = {"Authorization": f"Bearer {self.model.api_key}"}
        try:
            answer = httpx.post(f"{self.model.url}/v1/completions", json=body, headers=headers, timeout=_FIRST_TOKEN_S)
        except httpx.TransportError as error:
            raise CannotServe(f"vLLM is up but gives no token: {error}. Its log ends:\n{self._tail()}") from error
        if answer.is_error:
            raise CannotServe(f"vLLM is up but refuses a completion: HTTP {answer.status_code} {answer.text[:500]}")

    def _tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
        return "\n".join([*lines, f"(all of it: {self.log})"]).replace(self.model.api_key, "***")

    def _last_line(self) -> str:
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 2000))
            lines = file.read().decode(errors="replace").splitlines()
        return lines[-1] if lines else ""

"""`sedray serve` around a stand-in for vLLM: what comes up, what does not, and that nothing stays behind."""

import os
import socket
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from api.cli.commands import app
from api.model_server import (
    CannotServe,
    ModelServer,
    ServedModel,
    check_folder,
    environment_of,
    free_port,
    vllm_command,
)

STAND_IN = """
import os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        known = self.headers["Authorization"] == "Bearer " + os.environ["VLLM_API_KEY"]
        self.send_response(200 if known else 401); self.end_headers(); self.wfile.write(b"{}")

print("loading weights")
HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def a_model(folder: Path, port: int = 0) -> ServedModel:
    port = port or free_port("127.0.0.1", 0)
    return ServedModel(folder=folder, name="exp-1-rl", host="127.0.0.1", port=port, api_key="sk-secret")


def a_folder(folder: Path) -> Path:
    for name in ("config.json", "tokenizer_config.json", "model.safetensors"):
        (folder / name).write_text("{}")
    return folder


def test_a_server_that_gives_a_token_is_ready_and_ends_with_the_block(tmp_path: Path) -> None:
    model = a_model(tmp_path)
    command = [sys.executable, "-c", STAND_IN, str(model.port)]
    with ModelServer(model, command, environment_of(model, os.environ)) as server:
        server.wait_until_ready(60.0, lambda waited_s, line: None)
        assert "loading weights" in server.log.read_text()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", model.port)) != 0


def test_one_that_dies_is_told_with_its_last_lines_and_without_the_key(tmp_path: Path) -> None:
    model = a_model(tmp_path)
    command = [sys.executable, "-c", "import os; print('no memory', os.environ['VLLM_API_KEY']); raise SystemExit(3)"]
    running = ModelServer(model, command, environment_of(model, os.environ))
    with running as server, pytest.raises(CannotServe, match="exit code 3") as caught:
        server.wait_until_ready(60.0, lambda waited_s, line: None)
    assert "no memory ***" in str(caught.value)


def test_one_that_hangs_is_given_up_at_the_deadline_and_killed(tmp_path: Path) -> None:
    model = a_model(tmp_path)
    ignores = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)"
    seen: list[float] = []
    server = ModelServer(model, [sys.executable, "-c", ignores], environment_of(model, os.environ))
    with pytest.raises(CannotServe, match=r"did not answer within 0\.5 s"):
        server.wait_until_ready(0.5, lambda waited_s, line: seen.append(waited_s))
    assert seen
    os.killpg(server._process.pid, 9)
    server.stop()


def test_the_key_stands_in_the_environment_and_in_no_command(tmp_path: Path) -> None:
    model = a_model(tmp_path)
    command = vllm_command(model, max_model_len=64, extra=["--max-num-seqs", "4"])
    assert "sk-secret" not in " ".join(command) and command[-2:] == ["--max-num-seqs", "4"]
    assert environment_of(model, {})["VLLM_API_KEY"] == "sk-secret"


def test_a_folder_that_is_no_whole_model_is_told(tmp_path: Path) -> None:
    check_folder(a_folder(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CannotServe, match=r"lacks \*.safetensors"):
        check_folder(tmp_path)
    with pytest.raises(CannotServe, match="sedray export checkpoint"):
        check_folder(tmp_path / "nowhere")


def test_a_port_in_use_is_told_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        found = CliRunner().invoke(app, ["serve", str(a_folder(tmp_path)), "--port", port])
    assert found.exit_code == 1 and f"port {port}" in found.stderr and "--port" in found.stderr

"""Previews over REST and from the command line, with the real process behind them."""

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from api.client import SedrayClient
from service.contract.preview import PreviewRequest
from service.contract.spec import ExperimentSpec
from service.errors import CannotRun, PreviewBusy, PreviewFailed, PreviewTooSlow, PreviewUnavailable
from service.planning import DataPreviewer
from service.settings import ApiSettings
from tests.api.test_server import free_port, server
from tests.workers.tiny_model import make_pairs, make_tokenizer, write_lines

pytestmark = pytest.mark.anyio


@pytest.fixture
def body(tmp_path: Path) -> dict[str, Any]:
    make_tokenizer().save_pretrained(tmp_path / "model")
    return {
        "name": "toy",
        "model": {"path": str(tmp_path / "model")},
        "sft": {
            "data": {"path": write_lines(tmp_path / "sft.jsonl", make_pairs(10))},
            "optimizer": {"learning_rate": 1e-3},
            "num_epochs": 1,
            "batch_size": 2,
        },
    }


def request_of(body: dict[str, Any]) -> PreviewRequest:
    return PreviewRequest(spec=ExperimentSpec.model_validate(body), num_samples=1, max_records=10)


def previewer(folder: Path, script: str, **changes: Any) -> DataPreviewer:
    """One whose interpreter is a shell script."""
    python = folder / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    return DataPreviewer(**{"python": str(python), "timeout_s": 30.0, **changes})


async def test_rest_answers_with_samples_and_counts(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    answer = await client.post("/api/v1/data/preview", json=body, params={"num_samples": 1}, timeout=120)
    assert answer.status_code == 200, answer.text
    [sft] = answer.json()["data_sets"]
    assert (sft["num_records"], len(sft["samples"]), sft["refusals"]) == (10, 1, [])
    assert sft["samples"][0]["is_trained"] == [False, False, True, True]


async def test_rest_refuses_data_that_cannot_be_used(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    Path(body["sft"]["data"]["path"]).write_text('{"promt": "w1", "completion": "w2"}\n')
    answer = await client.post("/api/v1/data/preview", json=body, timeout=120)
    assert (answer.status_code, answer.json()["code"]) == (422, "cannot_run")
    assert "line 1: no key 'prompt'; did you mean 'promt'?" in answer.json()["detail"]


async def test_rest_needs_a_token(anonymous: httpx.AsyncClient, body: dict[str, Any]) -> None:
    assert (await anonymous.post("/api/v1/data/preview", json=body)).status_code == 401


@pytest.mark.parametrize("path", ["rows.jsonl", "http://127.0.0.1/rows.jsonl"])
async def test_no_process_starts_for_an_address_that_is_not_read(body: dict[str, Any], path: str) -> None:
    body["sft"]["data"]["path"] = path
    with pytest.raises(CannotRun) as refused:
        await DataPreviewer(python="/nowhere", timeout_s=1).preview(request_of(body))
    assert [error["field"] for error in refused.value.details["errors"]] == ["sft.data.path"]


@pytest.mark.slow
async def test_the_command_line_shows_and_prints(
    settings: ApiSettings, token: str, body: dict[str, Any], tmp_path: Path
) -> None:
    port = free_port()
    (tmp_path / "token").write_text(token)
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(body))
    url = f"http://127.0.0.1:{port}"
    command = [
        sys.executable,
        "-m",
        "api.cli",
        "--url",
        url,
        "--token-file",
        str(tmp_path / "token"),
        "data",
        "preview",
    ]
    with server(settings, tmp_path / "log", port):

        def run(*options: str) -> str:
            arguments = [*command, str(tmp_path / "spec.yaml"), "--samples", "1", *options]
            environment = {**os.environ, "COLUMNS": "100"}
            return subprocess.run(arguments, capture_output=True, text=True, check=True, env=environment).stdout

        shown, printed = (
            await asyncio.to_thread(run),
            await asyncio.to_thread(run, "--json", "--set", "sft.max_length=7"),
        )
        with SedrayClient(url, token) as client:
            preview = await asyncio.to_thread(client.preview_data, body)
    assert "10 records, 10 samples" in shown
    assert "w0 w1⟦ w0 <eos>⟧" in shown
    assert "2 of 10 samples" in json.loads(printed)["data_sets"][0]["refusals"][0]
    assert preview.data_sets[0].num_samples == 10


async def test_a_third_preview_at_a_time_is_refused(body: dict[str, Any], tmp_path: Path) -> None:
    busy = previewer(tmp_path, "sleep 5", max_running=1)
    first = asyncio.create_task(busy.preview(request_of(body)))
    await asyncio.sleep(0.05)
    with pytest.raises(PreviewBusy):
        await busy.preview(request_of(body))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert busy._free == 1


async def test_a_preview_ends_in_time_with_all_its_processes(body: dict[str, Any], tmp_path: Path) -> None:
    slow = previewer(tmp_path, f"sleep 60 & echo $! > {tmp_path}/pid; wait", timeout_s=0.5)
    began = time.monotonic()
    with pytest.raises(PreviewTooSlow, match="the preview took longer"):
        await slow.preview(request_of(body))
    assert time.monotonic() - began < 20
    child = int((tmp_path / "pid").read_text())
    status = Path(f"/proc/{child}/status")
    assert not status.exists() or "State:\tZ" in status.read_text()


async def test_an_environment_without_the_libraries_is_named(body: dict[str, Any], tmp_path: Path) -> None:
    bare = previewer(tmp_path, "echo 'python: No module named workers' >&2; exit 1")
    with pytest.raises(PreviewUnavailable, match="No module named workers; install sedray with its 'preview' extra"):
        await bare.preview(request_of(body))


@pytest.mark.parametrize("script", ["echo MemoryError >&2; exit 1", "echo '{'", "kill -9 $$"])
async def test_a_process_that_breaks_down_is_a_failure(body: dict[str, Any], tmp_path: Path, script: str) -> None:
    with pytest.raises(PreviewFailed):
        await previewer(tmp_path, script).preview(request_of(body))


async def test_the_process_inherits_no_secret(
    body: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEDRAY_DATABASE_URL", "secret")
    with pytest.raises(PreviewFailed):
        await previewer(tmp_path, f"env > {tmp_path}/env; exit 1").preview(request_of(body))
    names = {line.split("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
    assert not [name for name in names if name.startswith("SEDRAY")]
    assert "HOME" in names

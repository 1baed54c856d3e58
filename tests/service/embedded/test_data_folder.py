import json
import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from service.embedded.data_folder import KEPT_LOGS, DataFolder, take_lock, write_private
from service.embedded.errors import StackError


def folder_at(root: Path) -> DataFolder:
    folder = DataFolder(root=root)
    folder.root.mkdir(exist_ok=True)
    folder.create()
    return folder


def never_pause(seconds: float) -> None:
    raise AssertionError("a folder in use is refused at once")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_secrets_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    folder = folder_at(tmp_path / "data")
    assert mode(folder.secrets) == 0o700
    assert [mode(file) for file in sorted(folder.secrets.iterdir())] == [0o600, 0o600]
    assert len(folder.secret_key.read_bytes()) >= 32


def test_a_second_start_finds_the_same_secrets(tmp_path: Path) -> None:
    first = folder_at(tmp_path / "data")
    secrets = first.secret_key.read_text(), first.ray_token.read_text()
    second = folder_at(tmp_path / "data")
    assert (second.secret_key.read_text(), second.ray_token.read_text()) == secrets


def test_two_stacks_on_one_folder_are_refused_with_process_and_address(tmp_path: Path) -> None:
    folder = folder_at(tmp_path / "data")
    with take_lock(folder, never_pause, front=os.getpid()):
        write_private(folder.endpoint, json.dumps({"url": "http://127.0.0.1:8700"}))
        with pytest.raises(StackError, match=rf"process id {os.getpid()} .*http://127\.0\.0\.1:8700"):
            take_lock(folder, never_pause, front=1)


def test_a_released_lock_can_be_taken_again(tmp_path: Path) -> None:
    folder = folder_at(tmp_path / "data")
    take_lock(folder, never_pause, front=os.getpid()).close()
    take_lock(folder, never_pause, front=os.getpid()).close()


def test_a_stack_that_is_being_shut_down_is_waited_for(tmp_path: Path) -> None:
    folder = folder_at(tmp_path / "data")
    ended = multiprocessing.get_context("spawn").Process()
    ended.start()
    ended.join()
    held = take_lock(folder, never_pause, front=ended.pid or 0)
    take_lock(folder, lambda seconds: held.close(), front=os.getpid()).close()


def test_logs_of_earlier_runs_are_kept_and_then_dropped(tmp_path: Path) -> None:
    folder = folder_at(tmp_path / "data")
    for run in range(KEPT_LOGS + 3):
        folder.log("api").write_text(f"run {run}")
    assert folder.log("api").exists() is False
    assert sorted(file.read_text() for file in folder.logs.iterdir()) == ["run 3", "run 4", "run 5"]


def test_sockets_get_a_short_private_folder_however_long_the_data_folder_is(tmp_path: Path) -> None:
    short = DataFolder(root=tmp_path / ("long" * 30)).short_folder()
    assert len(str(short)) < 50
    assert mode(short) == 0o700
    short.rmdir()


def test_a_short_folder_that_is_not_a_folder_of_ours_is_refused(tmp_path: Path) -> None:
    folder = DataFolder(root=tmp_path / "data")
    short = folder.short_folder()
    short.rmdir()
    short.symlink_to(tmp_path)
    try:
        with pytest.raises(StackError, match="belongs to somebody else"):
            folder.short_folder()
    finally:
        short.unlink()

"""Output of every origin reaches both the original stream and the sink."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from workers.log_capture import MAX_LINE_CHARACTERS, FieldsFormatter, LogCapture


def captured(write: Callable[[], object]) -> tuple[list[str], LogCapture]:
    lines: list[str] = []
    with LogCapture(lines.append) as capture:
        write()
    return lines, capture


def test_output_of_child_processes_and_c_code_is_seen(capfd: pytest.CaptureFixture[str]) -> None:
    def write() -> None:
        subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
        os.write(2, b"from the descriptor\n")

    lines, _ = captured(write)
    assert lines == ["from a child", "from the descriptor"]
    assert capfd.readouterr().out == "from a child\nfrom the descriptor\n"


def test_descriptors_are_restored(capfd: pytest.CaptureFixture[str]) -> None:
    lines, _ = captured(lambda: os.write(1, b"inside\n"))
    os.write(1, b"outside\n")
    assert lines == ["inside"]
    assert capfd.readouterr().out == "inside\noutside\n"


def test_colours_progress_bars_and_blank_lines_are_tidied(capfd: pytest.CaptureFixture[str]) -> None:
    lines, _ = captured(lambda: os.write(1, b"\x1b[36m(Trainer pid=7)\x1b[0m hi\n\n 10%\r 90%\r100%\r\n   \n"))
    assert lines == ["(Trainer pid=7) hi", "100%"]


def test_line_without_an_end_is_kept(capfd: pytest.CaptureFixture[str]) -> None:
    lines, _ = captured(lambda: os.write(1, b"no newline"))
    assert lines == ["no newline"]


def test_long_lines_are_cut_and_do_not_pile_up(capfd: pytest.CaptureFixture[str]) -> None:
    lines, capture = captured(lambda: os.write(1, b"x" * 50_000 + b"\ny\n"))
    assert lines[-1] == "y"
    assert all(len(line) <= MAX_LINE_CHARACTERS for line in lines)
    assert capture.last_lines() == lines


def test_flood_is_limited_and_its_size_told(capfd: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    with LogCapture(lines.append, lines_per_s=50.0, burst=10) as capture:
        os.write(1, b"".join(b"%d\n" % number for number in range(1000)))
        while capture.last_lines()[-1:] != ["999"]:
            pass
        last = list(lines)
        while len(lines) == len(last):
            os.write(1, b"again\n")
    told = [line for line in lines if line.endswith("lines dropped")]
    assert lines[:10] == [str(number) for number in range(10)]
    assert told and len(lines) < 500


def test_child_that_keeps_the_pipe_open_does_not_hold_the_end_up(capfd: pytest.CaptureFixture[str]) -> None:
    children: list[subprocess.Popen[bytes]] = []

    def write() -> None:
        children.append(subprocess.Popen(["sleep", "30"]))
        os.write(1, b"done\n")

    lines, _ = captured(write)
    children[0].kill()
    children[0].wait()
    assert lines == ["done"]


def test_formatter_shows_the_extra_fields() -> None:
    record = logging.makeLogRecord({"name": "workers", "levelname": "INFO", "msg": "stage started", "stage": "sft"})
    assert FieldsFormatter().format(record).endswith("INFO workers: stage started stage=sft")

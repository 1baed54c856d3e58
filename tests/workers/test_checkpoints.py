import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import fsspec
import pytest
import torch

from workers.checkpoint_draft import FileContent, begin_draft
from workers.checkpoints import (
    MANIFEST,
    DamagedCheckpoint,
    checkpoint_name,
    load_checkpoint,
    load_latest,
    prune,
)


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place for checkpoints that does not exist yet."""
    return str(tmp_path / "checkpoints") if request.param == "local" else f"memory://{uuid4().hex}/checkpoints"


def save_checkpoint(root: str, name: str, files: Mapping[str, FileContent], facts: dict[str, Any]) -> str:
    """As a single writer does it."""
    draft = begin_draft(root, name)
    try:
        return draft.commit({file_name: draft.write(file_name, content) for file_name, content in files.items()}, facts)
    finally:
        draft.discard()


def save(root: str, step: int) -> str:
    content = bytes([step]) * 5000
    return save_checkpoint(root, checkpoint_name(step), {"a.bin": content, "b.bin": b"b"}, {"step": step})


def read(location: str, name: str) -> bytes:
    with fsspec.open(f"{location}/{name}", "rb") as file:
        return bytes(file.read())


def write(location: str, name: str, content: bytes) -> None:
    with fsspec.open(f"{location}/{name}", "wb") as file:
        file.write(content)


def flip_a_byte(location: str, name: str) -> None:
    content = bytearray(read(location, name))
    content[len(content) // 2] ^= 1
    write(location, name, bytes(content))


def remove(location: str, name: str) -> None:
    filesystem, path = fsspec.core.url_to_fs(f"{location}/{name}")
    filesystem.rm_file(path)


def test_the_newest_checkpoint_is_found_with_its_facts_and_files(root: str) -> None:
    for step in (9, 10, 100):
        location = save(root, step)
    found = load_latest(root)
    assert found.skipped == ()
    assert found.checkpoint is not None
    assert (found.checkpoint.location, found.checkpoint.facts) == (location, {"step": 100})
    with found.checkpoint.open("a.bin") as stream:
        assert stream.read() == bytes([100]) * 5000


def test_a_place_that_does_not_exist_holds_no_checkpoint(root: str) -> None:
    assert load_latest(root).checkpoint is None


@pytest.mark.parametrize("file_name", ["a.bin", "b.bin", MANIFEST])
def test_a_flipped_byte_sends_the_reader_to_the_one_before(root: str, file_name: str) -> None:
    save(root, 1)
    flip_a_byte(save(root, 2), file_name)
    found = load_latest(root)
    assert found.checkpoint is not None and found.checkpoint.facts == {"step": 1}
    assert [skipped.name for skipped in found.skipped] == [checkpoint_name(2)]


def test_every_byte_of_the_manifest_is_guarded(tmp_path: Path) -> None:
    location = save_checkpoint(str(tmp_path), checkpoint_name(1), {"a": b"1"}, {"tau": 0.5})
    whole = read(location, MANIFEST)
    for index in range(len(whole)):
        damaged = bytearray(whole)
        damaged[index] ^= 1
        write(location, MANIFEST, bytes(damaged))
        found = load_latest(str(tmp_path)).checkpoint
        # A changed space between two values is the only damage that may pass: it changes nothing.
        assert found is None or (whole[index : index + 1].isspace() and found.facts == {"tau": 0.5})


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda location: remove(location, MANIFEST), "no manifest"),
        (lambda location: remove(location, "a.bin"), "a.bin is missing"),
        (lambda location: write(location, "a.bin", b""), "a.bin has 0 bytes, its manifest says 5000"),
        (lambda location: write(location, MANIFEST, b"{}"), "manifest unreadable"),
        (lambda location: write(location, MANIFEST, b"[]"), "manifest unreadable"),
        (lambda location: flip_a_byte(location, "a.bin"), "SHA-256"),
    ],
)
def test_the_reason_for_skipping_is_told(root: str, damage: Callable[[str], None], reason: str) -> None:
    damage(save(root, 1))
    found = load_latest(root)
    assert found.checkpoint is None
    assert reason in found.skipped[0].reason


def test_a_writer_that_fails_leaves_the_old_state(root: str) -> None:
    def broken(stream: BinaryIO) -> None:
        stream.write(b"half")
        raise OSError("disk full")

    save(root, 1)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(root, checkpoint_name(2), {"a.bin": b"a", "b.bin": broken}, {})
    found = load_latest(root)
    assert found.checkpoint is not None and found.checkpoint.facts == {"step": 1}


def test_a_local_writer_that_fails_leaves_no_trace(tmp_path: Path) -> None:
    def broken(stream: BinaryIO) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(str(tmp_path), checkpoint_name(1), {"a.bin": broken}, {})
    assert os.listdir(tmp_path) == []


def test_saving_again_replaces_a_damaged_checkpoint(root: str) -> None:
    flip_a_byte(save(root, 1), "a.bin")
    save(root, 1)
    found = load_latest(root)
    assert found.skipped == ()
    assert found.checkpoint is not None


def test_torch_state_goes_through_a_stream(root: str) -> None:
    state = {"weight": torch.arange(1000.0)}
    save_checkpoint(root, checkpoint_name(1), {"model.pt": lambda stream: torch.save(state, stream)}, {})
    checkpoint = load_latest(root).checkpoint
    assert checkpoint is not None
    with checkpoint.open("model.pt") as stream:
        assert torch.equal(torch.load(stream, weights_only=True)["weight"], state["weight"])


def test_prune_keeps_the_newest(root: str) -> None:
    for step in range(1, 6):
        save(root, step)
    assert prune(root, keep=2) == [checkpoint_name(step) for step in (1, 2, 3)]
    assert prune(root, keep=2) == []
    found = load_latest(root)
    assert found.checkpoint is not None and found.checkpoint.facts == {"step": 5}


def test_prune_spares_the_protected(root: str) -> None:
    for step in range(1, 6):
        save(root, step)
    assert prune(root, keep=2, protect=[checkpoint_name(2)]) == [checkpoint_name(1), checkpoint_name(3)]
    assert load_checkpoint(root, checkpoint_name(2)).facts == {"step": 2}
    assert prune(root, keep=2) == [checkpoint_name(2)]


def test_a_checkpoint_asked_for_by_name_must_verify(root: str) -> None:
    with pytest.raises(DamagedCheckpoint, match="no manifest"):
        load_checkpoint(root, checkpoint_name(1))
    remove(save(root, 1), "a.bin")
    with pytest.raises(DamagedCheckpoint, match=r"a\.bin is missing"):
        load_checkpoint(root, checkpoint_name(1))


def test_prune_does_not_count_interrupted_ones(root: str) -> None:
    for step in (1, 2):
        save(root, step)
    remove(save(root, 3), MANIFEST)
    assert prune(root, keep=2) == []
    found = load_latest(root)
    assert found.checkpoint is not None and found.checkpoint.facts == {"step": 2}


def test_prune_clears_what_a_killed_writer_left(tmp_path: Path) -> None:
    save(str(tmp_path), 1)
    (tmp_path / ".writing-step-00000002-0").mkdir()
    assert load_latest(str(tmp_path)).skipped == ()
    prune(str(tmp_path), keep=1)
    assert os.listdir(tmp_path) == [checkpoint_name(1)]


def test_facts_without_a_json_form_are_refused(root: str) -> None:
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(root, checkpoint_name(1), {}, {"tau": float("nan")})
    assert load_latest(root).checkpoint is None


def test_manifest_lists_size_and_digest_of_each_file(root: str) -> None:
    location = save(root, 1)
    files = json.loads(read(location, MANIFEST))["body"]["files"]
    assert {name: entry["num_bytes"] for name, entry in files.items()} == {"a.bin": 5000, "b.bin": 1}

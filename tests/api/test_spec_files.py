"""Specification files as the command line reads them."""

from pathlib import Path

import pytest
import yaml

from api.cli.spec_files import UnreadableSpec, absolute_overrides, apply_overrides, load_spec


def test_relative_paths_are_seen_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text("model: {path: base}\nsft: {data: {path: data/sft.jsonl}}\nrl: {data: {path: s3://b/rl.jsonl}}\n")

    spec = load_spec(file)

    assert spec["model"]["path"] == str(tmp_path / "base")
    assert spec["sft"]["data"]["path"] == str(tmp_path / "data" / "sft.jsonl")
    assert spec["rl"]["data"]["path"] == "s3://b/rl.jsonl"


def test_a_time_stays_the_text_that_was_written(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text("scheduling:\n  not_before: 2026-05-01T22:00:00Z\n")

    assert load_spec(file) == {"scheduling": {"not_before": "2026-05-01T22:00:00Z"}}


def test_malformed_parts_are_left_for_the_service_to_judge(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text("model: 3\nsft: [1]\nrl: {data: null}\n")

    assert load_spec(file) == {"model": 3, "sft": [1], "rl": {"data": None}}


def test_names_on_the_hub_are_no_paths(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    data = {"hub": {"type": "huggingface", "path": "owner/name"}, "folder": {"type": "huggingface", "path": "./rows"}}
    file.write_text(yaml.safe_dump({"sft": {"data": data["hub"], "eval_data": data["folder"]}}))

    sft = load_spec(file)["sft"]

    assert sft["data"]["path"] == "owner/name"
    assert sft["eval_data"]["path"] == str(tmp_path / "rows")


@pytest.mark.parametrize("content", ["a: [1\n", "- 1\n", ""])
def test_a_file_without_one_object_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(content)

    with pytest.raises(UnreadableSpec):
        load_spec(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableSpec, match=r"gone\.yaml"):
        load_spec(tmp_path / "gone.yaml")


def test_overrides_set_dotted_keys() -> None:
    spec = {"sft": {"objective": {"type": "sed"}}, "seed": 1}

    apply_overrides(spec, ["sft.objective.lambda=2.0", "seed=7", "rl.num_steps=5"])

    assert spec == {"sft": {"objective": {"type": "sed", "lambda": 2.0}}, "seed": 7, "rl": {"num_steps": 5}}


@pytest.mark.parametrize("override", ["seed", "seed.x=1"])
def test_an_override_that_fits_nowhere_is_refused(override: str) -> None:
    with pytest.raises(UnreadableSpec):
        apply_overrides({"seed": 1}, [override])


def test_an_override_of_a_part_that_another_one_takes_out_stays_as_it_is(tmp_path: Path) -> None:
    overrides = {"sft.objective": {"type": "gem"}, "sft": None}

    assert absolute_overrides({"sft": {"objective": {"type": "ce"}}}, overrides, tmp_path) == overrides

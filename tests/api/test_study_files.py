"""Files of studies: paths are seen from the file, and the shipped studies are valid down to every experiment."""

from pathlib import Path
from typing import Any

import pytest

from api.cli.spec_files import load_study
from service.contract.data_sets import PAPER_EVALUATION_SETS
from service.contract.published import published_table
from service.contract.spec import ExperimentSpec
from service.contract.studies import StudySpec, planned_runs

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load_filled(file: Path, folder: Path) -> StudySpec:
    """A study of the paper as a team would complete it."""
    filled = folder / file.name
    filled.write_text(file.read_text().replace("FILL IN", "a" * 40))
    return StudySpec.model_validate(load_study(filled))


def test_paths_in_base_overrides_and_factors_are_seen_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(
        "base: {model: {path: base}, rl: {data: {path: ./rl.jsonl}}}\n"
        "arms:\n"
        "  - {name: a, overrides: {sft.data.path: x.jsonl, sft.objective: {type: ce}, sft: {data: {path: y.jsonl}}}}\n"
        "  - {name: b, overrides: {sft: null, sft.data: {type: huggingface, path: owner/name}}}\n"
        "factors: {model.path: [one, /two], sft.num_epochs: [1]}\n"
    )
    study: Any = load_study(file)
    assert study["base"] == {"model": {"path": f"{tmp_path}/base"}, "rl": {"data": {"path": f"{tmp_path}/rl.jsonl"}}}
    first, second = (arm["overrides"] for arm in study["arms"])
    assert (first["sft.data.path"], first["sft"]["data"]["path"]) == (f"{tmp_path}/x.jsonl", f"{tmp_path}/y.jsonl")
    assert (second["sft"], second["sft.data"]["path"]) == (None, "owner/name")
    assert study["factors"] == {"model.path": [f"{tmp_path}/one", "/two"], "sft.num_epochs": [1]}


@pytest.mark.parametrize("key", list(published_table().models))
def test_the_papers_studies_are_valid_down_to_every_experiment(key: str, tmp_path: Path) -> None:
    study = load_filled(EXAMPLES / "paper" / f"{key}.yaml", tmp_path)
    arms = [arm.name for arm in study.arms]
    assert arms[: len(published_table().methods)] == list(published_table().methods)
    specs = {run.arm: run.spec() for run in planned_runs(study)}
    sed, no_sft, untouched = specs["sed"], specs["no-sft"], specs["untouched"]
    assert sed.sft is not None and sed.rl is not None and no_sft.sft is None and no_sft.rl is not None
    assert {one.name for one in sed.evaluation_sets().values()} == set(PAPER_EVALUATION_SETS)
    assert (sed.sft.batch_size, sed.sft.num_epochs, sed.sft.optimizer.learning_rate) == (128, 2, 2e-5)
    assert (sed.rl.num_samples_per_step, sed.rl.num_sequences_per_update, sed.rl.num_steps) == (2048, 256, 80)
    assert untouched.stage_names() == ["evaluate_base"] and no_sft.stage_names()[-1] == "evaluate_after_rl"
    assert len(chats_of(sed)) == 1, "SFT, RL and evaluation ask in the same form"


def chats_of(spec: ExperimentSpec) -> set[str]:
    return {chat.model_dump_json() for chat in spec.chats()}

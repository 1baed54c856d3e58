"""The studies of the paper are valid down to every experiment."""

from pathlib import Path

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

"""Fifty steps of cross entropy beside those of TRL's SFTTrainer; the record is made by `bench.trajectory --record`."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench.trajectory import OUR_NAMES, SCHEDULES, TOLERANCE, Schedule, train_ours, write_trajectory

RECORDED = json.loads((Path(__file__).parent / "trl_trajectory.json").read_text())["trajectories"]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_steps_are_those_of_trl_under_each_schedule(tmp_path: Path, schedule: Schedule) -> None:
    ours = train_ours(tmp_path, write_trajectory(tmp_path, schedule))
    for what in OUR_NAMES:
        assert ours[what] == pytest.approx(RECORDED[schedule][what], rel=0.0, abs=TOLERANCE), what


@pytest.mark.parametrize("change", [{"packing": True}, {"max_tokens_per_microbatch": 20}])
def test_steps_are_those_of_trl_however_a_batch_is_laid_out(tmp_path: Path, change: dict[str, Any]) -> None:
    ours = train_ours(tmp_path, write_trajectory(tmp_path, "cosine", **change))
    for what in OUR_NAMES:
        assert ours[what] == pytest.approx(RECORDED["cosine"][what], rel=0.0, abs=TOLERANCE), what

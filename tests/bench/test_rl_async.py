"""What the runs of a comparison come to."""

from typing import Any

import pytest

from bench.rl_async import Caught, Comparison, Measured, make_spec, measured


def caught(seconds_per_step: float, num_steps: int = 8) -> Caught:
    found = Caught()
    for step in range(1, num_steps + 1):
        timing = {"timing_s/step": 1.0, "timing_s/gen": float(step), "async/staleness/mean": 1.0, "reward/mean": 0.5}
        found.points(step, timing)
        found.ended_at[step] = 100.0 + seconds_per_step * step
    found.points(num_steps, {"eval/test/avg@16": 0.25})
    return found


def test_the_first_steps_do_not_count() -> None:
    run = measured("async", 7, caught(seconds_per_step=2.0))
    assert run.steps_per_hour == pytest.approx(1800.0)
    assert run.seconds["gen"] == pytest.approx((4 + 5 + 6 + 7 + 8) / 5)
    assert (run.mode, run.seed, run.final_reward, run.train_reward, run.staleness) == ("async", 7, 0.25, 0.5, 1.0)


def test_medians_over_the_seeds_are_compared() -> None:
    def run(mode: Any, speed: float) -> Measured:
        return Measured(
            mode=mode, seed=1, steps_per_hour=speed, final_reward=0.5, train_reward=0.5, seconds={}, staleness=0.0
        )

    runs = [run("sync", 100.0), run("sync", 110.0), run("sync", 900.0), run("async", 165.0), run("async", 10.0)]
    row = Comparison(runs=[*runs, run("async", 170.0)]).row
    assert (row.ours, row.peer, row.ratio) == (165.0, 110.0, 1.5)


def test_both_modes_ask_the_same_of_the_machine() -> None:
    ahead, in_step = (make_spec(mode, 11, 20) for mode in ("async", "sync"))
    assert ahead.rl is not None and in_step.rl is not None
    assert (ahead.rl.num_steps_ahead, in_step.rl.num_steps_ahead) == (1, 0)
    assert ahead.rl.num_samples_per_step == in_step.rl.num_samples_per_step
    assert ahead.resources.num_cpus == in_step.resources.num_cpus == 2.0

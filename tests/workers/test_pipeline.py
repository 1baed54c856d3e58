"""`python -m workers.pipeline` as Ray runs it: real cluster, trainer and vLLM, against an HTTP service of the test."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from service.contract.messages import PREEMPTION_ACKNOWLEDGED, StageResult
from service.contract.metric_names import describe_metric
from service.contract.spec import ExperimentSpec
from service.contract.status import EndReason
from tests.workers.attempt_server import ATTEMPT_ID, TOKEN, AttemptServer, orders_of, serving
from tests.workers.ray_head import actor_processes, only_node, ray_environment, ray_head
from workers.data.prompt_dataset import prompt_indices_for_step
from workers.replay import replay
from workers.stages.rollout_store import stored_step_path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
COUNTDOWN = ROOT / "examples" / "countdown"
NUM_RL_STEPS = 6
SAVE_STEPS = 2
NUM_SFT_STEPS = 6
SAMPLED_SFT_STEP = 3
RL_EVAL_STEPS = 3


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with ray_head(num_cpus=2) as address:
        yield address


@pytest.fixture(scope="module")
def whole_run(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> AttemptServer:
    """What the service holds after a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    # The other runs move weights through shared memory, and must come out the same.
    spec = with_weight_sync(make_spec(folder), transport="object_store", checksum_steps=2)
    with serving(orders_of(spec, str(folder / "out"))) as server:
        with driver(cluster, server, folder) as process:
            process.wait(timeout=600)
        assert process.returncode == 0, server.finished
    return server


def make_spec(folder: Path, **changes: Any) -> ExperimentSpec:
    reward = {"type": "countdown"}
    sft = {
        "data": {"path": head_of("sft.jsonl", 96, folder)},
        "objective": {"type": "sed", "calibration_samples": 20},
        "optimizer": {"learning_rate": 1e-3},
        "num_epochs": 2,
        "batch_size": 32,
        "holdout_fraction": 0.1,
        "eval_steps": 2,
        "num_token_view_samples": 3,
    }
    rl = {
        "data": {"path": head_of("rl.jsonl", 50, folder)},
        "reward": reward,
        "optimizer": {"learning_rate": 3e-4},
        "num_steps": NUM_RL_STEPS,
        "num_prompts_per_step": 8,
        "num_generations": 8,
        "max_completion_length": 12,
        "save_steps": SAVE_STEPS,
        "rollout_store_steps": 1,
        "gate": {"num_prompts": 8, "max_clipped_ratio": 1.0, "max_frac_reward_zero_std": 1.0},
    }
    evaluation = {
        "data": {"path": head_of("test.jsonl", 16, folder)},
        "reward": reward,
        "sft_steps": [SAMPLED_SFT_STEP],
        "rl_eval_steps": RL_EVAL_STEPS,
        "num_generations": 4,
        "pass_at_k": [1, 4],
        "max_completion_length": 12,
    }
    model = {"path": str(COUNTDOWN / "base"), "max_model_len": 64}
    body = {"name": "toy", "seed": 5, "model": model, "sft": sft, "rl": rl, "evaluation": evaluation}
    return ExperimentSpec.model_validate(body | changes)


def with_weight_sync(spec: ExperimentSpec, **settings: Any) -> ExperimentSpec:
    """The same experiment with other ways for its weights."""
    body = spec.model_dump(mode="json")
    return ExperimentSpec.model_validate(body | {"rl": body["rl"] | {"weight_sync": settings}})


def head_of(name: str, num_lines: int, folder: Path) -> str:
    """The first lines of one of the example's files."""
    lines = (COUNTDOWN / "data" / name).read_text().splitlines(keepends=True)
    (folder / name).write_text("".join(lines[:num_lines]))
    return str(folder / name)


@contextmanager
def driver(cluster: str, server: AttemptServer, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """The driver's process; killed at the end if it still runs, and nothing of the attempt may outlive it."""
    (folder / "token").write_text(TOKEN)
    environment = {
        "RAY_ADDRESS": cluster,
        "SEDRAY_ATTEMPT_ID": ATTEMPT_ID,
        "SEDRAY_SERVICE_URL": server.url,
        "SEDRAY_TOKEN_FILE": str(folder / "token"),
        "SEDRAY_WORK_DIR": str(folder / "work"),
    }
    log = folder / f"driver-{time.monotonic_ns()}.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "workers.pipeline"]
        process = subprocess.Popen(
            command, env=ray_environment() | environment, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            yield process
        except BaseException:
            print(log.read_text(errors="replace")[-20_000:])
            raise
        finally:
            process.kill()
            process.wait()
    wait_nothing_left()


def wait_nothing_left(timeout_s: float = 20.0) -> None:
    """No actor, no process of vLLM and no weight file of this attempt remains."""
    limit = time.monotonic() + timeout_s
    while left := [*actor_processes(), *weight_folders()]:
        assert time.monotonic() < limit, left
        time.sleep(0.2)


def weight_folders() -> list[Path]:
    return list(Path("/dev/shm").glob(f"sedray-*-{ATTEMPT_ID}*"))


def test_whole_run_reports_every_stage(whole_run: AttemptServer) -> None:
    assert [report.reason for report in whole_run.finished] == [EndReason.COMPLETED]
    results = whole_run.stage_results()
    assert [result.stage for result in results] == whole_run.orders.spec.stage_names()
    assert all(result.steps_done == result.steps_planned > 0 for result in results)
    assert all("timing_s/stage" in result.metrics for result in results)
    sft = results[1]
    assert sft.steps_done == NUM_SFT_STEPS
    assert sft.detail["tau"] and sft.detail["tau_histogram"]["counts"]
    assert [entry["step"] for entry in sft.detail["sampled"]] == [SAMPLED_SFT_STEP]


def test_whole_run_names_only_registered_metrics(whole_run: AttemptServer) -> None:
    assert [name for name in whole_run.metric_names() if describe_metric(name) is None] == []
    expected = {
        "sft/loss",
        "sft/eval/nll",
        "reward/mean",
        "sampling/is_ratio_raw/mean",
        "timing_s/gen",
        "perf/throughput",
    }
    assert expected <= whole_run.metric_names()


def test_held_out_samples_are_measured_and_shown_token_by_token(whole_run: AttemptServer) -> None:
    measured = [step for step, _ in whole_run.points("sft/eval/nll")]
    assert measured == [0, 2, 4, NUM_SFT_STEPS]
    views = whole_run.token_views()
    assert [(view.step, view.sample_index) for view in views] == [(step, i) for step in measured for i in range(3)]
    rows = [json.loads(line) for line in (COUNTDOWN / "data" / "sft.jsonl").read_text().splitlines()]
    texts = {"".join(view.tokens).replace(" ", "") for view in views}
    wanted = {(row["prompt"] + row["completion"]).replace(" ", "") for row in rows}
    assert all(any(text.startswith(known) for known in wanted) for text in texts), texts
    assert any(prob is not None for prob in views[-1].label_probs)


def test_the_set_is_sampled_on_the_way(whole_run: AttemptServer) -> None:
    steps = [step for step, _ in whole_run.points("eval/test/pass@1")]
    in_rl = [NUM_SFT_STEPS + RL_EVAL_STEPS, NUM_SFT_STEPS + NUM_RL_STEPS]
    assert steps == [0, SAMPLED_SFT_STEP, NUM_SFT_STEPS, *in_rl]


def test_the_policy_is_probed_before_rl_begins(whole_run: AttemptServer) -> None:
    assert [step for step, _ in whole_run.points("gate/clipped_ratio")] == [0]


@pytest.mark.parametrize("step", [1, NUM_RL_STEPS])
def test_a_step_can_be_replayed_from_what_was_stored(whole_run: AttemptServer, step: int) -> None:
    found = replay(whole_run.orders.output_dir, step)
    logged = {metric.name: dict(whole_run.points(metric.name))[step] for metric in found}
    assert {metric.name: metric.again for metric in found} == logged


def test_trainer_and_engine_agree_on_every_token(whole_run: AttemptServer) -> None:
    assert all(abs(value - 1.0) < 0.01 for _, value in whole_run.points("sampling/is_ratio_raw/min"))
    assert all(abs(value - 1.0) < 0.01 for _, value in whole_run.points("sampling/is_ratio_raw/max"))


def test_every_weight_sync_is_verified_and_timed(whole_run: AttemptServer) -> None:
    gaps = whole_run.points("weight_sync/probe_logprob_abs_diff_max")
    assert [step for step, _ in gaps] == list(range(1, NUM_RL_STEPS + 1))
    assert all(0.0 < gap < 1e-3 for _, gap in gaps)
    for phase in ("pause", "gather", "transfer", "load", "verify"):
        assert len(whole_run.points(f"timing_s/weight_sync/{phase}")) == NUM_RL_STEPS


def test_engine_takes_the_weights_of_every_step(whole_run: AttemptServer) -> None:
    assert whole_run.points("training/policy_version") == [(step, 2.0 + step) for step in range(1, NUM_RL_STEPS + 1)]


def test_models_and_logs_are_left(whole_run: AttemptServer) -> None:
    for stage in ("sft", "rl"):
        assert (Path(whole_run.orders.output_dir) / "models" / stage / "config.json").is_file()
    assert any("rollout engine ready" in line for line in whole_run.lines()), "the actors' output is carried too"
    # Of each step of RL, its probe, the three points and the one within SFT; none of the set within RL.
    assert len(whole_run.rollouts()) == 8 * (NUM_RL_STEPS + 1 + 4)


def test_lost_actors_are_replaced_within_an_attempt_and_the_runs_equal_the_whole_run(
    cluster: str, whole_run: AttemptServer, tmp_path: Path
) -> None:
    spec, output_dir = make_spec(tmp_path), str(tmp_path / "out")
    with serving(orders_of(spec, output_dir)) as first, driver(cluster, first, tmp_path) as process:
        first.wait_until(lambda: first.points("reward/mean"), timeout_s=600)
        kill_engine()
        first.wait_until(lambda: len(first.points("reward/mean")) > SAVE_STEPS, timeout_s=120)
        process.terminate()
        process.wait(timeout=60)
        assert (process.returncode, first.finished) == (143, [])
    [event] = first.events("engine_replaced")
    assert event.detail["engine"] == 0 and "died" in event.detail["cause"]
    assert_equal_from(1, first, whole_run)
    with (
        serving(orders_of(spec, output_dir, first.stage_results())) as second,
        driver(cluster, second, tmp_path) as again,
    ):
        second.wait_until(lambda: second.points("reward/mean"), timeout_s=600)
        [trainer] = actor_processes("ray::Trainer")
        trainer.kill()
        again.wait(timeout=600)
        assert again.returncode == 0, second.finished
    [event] = second.events("trainer_restarted")
    assert event.detail["stage"] == "rl" and "died" in event.detail["cause"]
    assert [result.stage for result in second.stage_results()] == ["rl", "evaluate_after_rl"]
    taken_up_at = min(dict(second.points("reward/mean")))
    assert taken_up_at > SAVE_STEPS
    assert_equal_from(taken_up_at, second, whole_run)
    assert comparable(second.stage_results()[-1]) == pytest.approx(comparable(whole_run.stage_results()[-1]))


def test_a_run_that_gave_way_equals_one_that_did_not(cluster: str, whole_run: AttemptServer, tmp_path: Path) -> None:
    spec, output_dir = make_spec(tmp_path), str(tmp_path / "out")
    with serving(orders_of(spec, output_dir)) as first, driver(cluster, first, tmp_path) as process:
        first.wait_until(lambda: first.points("reward/mean"), timeout_s=600)
        first.preempt = True
        process.wait(timeout=120)
        assert (process.returncode, first.finished[0].reason) == (1, EndReason.PREEMPTED), first.finished
    (heard,) = [event for event in first.events() if event.kind == PREEMPTION_ACKNOWLEDGED]
    assert first.points("reward/mean")[-1][0] == heard.detail["step"] < NUM_RL_STEPS
    left = orders_of(spec, output_dir, first.stage_results())
    pinned = left.model_copy(update={"nodes": [only_node(cluster)] * len(spec.resources.bundles)})
    with serving(pinned) as second, driver(cluster, second, tmp_path) as again:
        again.wait(timeout=600)
        assert again.returncode == 0, second.finished
    for name in ("sft/loss", "reward/mean", "actor/grad_norm", "training/num_tokens"):
        merged = dict(first.points(name)) | dict(second.points(name))
        assert merged == pytest.approx(dict(whole_run.points(name)), abs=1e-4), name
    assert second.points("reward/mean")[0][0] == heard.detail["step"] + 1, "no step was run twice"
    assert comparable(second.stage_results()[-1]) == pytest.approx(comparable(whole_run.stage_results()[-1]))


def assert_equal_from(step: int, found: AttemptServer, expected: AttemptServer) -> None:
    """The steps that were run are those of another run."""
    for name in ("reward/mean", "actor/grad_norm", "completions/mean_length", "training/num_tokens"):
        points = dict(found.points(name))
        assert min(points) == step
        wanted = {step: value for step, value in expected.points(name) if step in points}
        assert points == pytest.approx(wanted, abs=1e-4), name


def kill_engine() -> None:
    """As the kernel does when memory runs out."""
    [engine] = actor_processes("ray::RolloutEngine")
    engine.kill()


def comparable(result: StageResult) -> dict[str, float]:
    """An evaluation's metrics without its time."""
    return {name: value for name, value in result.metrics.items() if name != "timing_s/stage"}


def test_cancellation_while_the_engine_starts_takes_seconds(cluster: str, tmp_path: Path) -> None:
    # The set is not sampled on the way, so SFT runs while the engine starts.
    evaluation = make_spec(tmp_path).model_dump(mode="json")["evaluation"] | {"sft_steps": [], "rl_eval_steps": None}
    spec = make_spec(tmp_path, rl=None, sft=make_endless_sft(tmp_path), evaluation=evaluation)
    with serving(orders_of(spec, str(tmp_path / "out"))) as server, driver(cluster, server, tmp_path) as process:
        server.wait_until(lambda: server.points("sft/loss"), timeout_s=300)
        server.cancel = True
        cancelled_at = time.monotonic()
        process.wait(timeout=60)
        assert time.monotonic() - cancelled_at < 15.0
        assert (process.returncode, server.finished[0].reason) == (1, EndReason.CANCELLED_BY_USER)


def test_missing_data_is_a_config_error(cluster: str, tmp_path: Path) -> None:
    broken = make_spec(tmp_path, rl=None, evaluation=None)
    (tmp_path / "sft.jsonl").unlink()
    with serving(orders_of(broken, str(tmp_path / "out"))) as server, driver(cluster, server, tmp_path) as process:
        process.wait(timeout=300)
        assert process.returncode == 1
    assert server.finished[0].reason is EndReason.CONFIG_ERROR
    assert "sft.jsonl" in server.finished[0].message


def test_sigterm_leaves_nothing_behind(cluster: str, tmp_path: Path) -> None:
    spec = make_spec(tmp_path, rl=None, evaluation=None, sft=make_endless_sft(tmp_path))
    with serving(orders_of(spec, str(tmp_path / "out"))) as server, driver(cluster, server, tmp_path) as process:
        server.wait_until(lambda: server.points("sft/loss"), timeout_s=300)
        process.terminate()
        stopped_at = time.monotonic()
        process.wait(timeout=30)
        assert time.monotonic() - stopped_at < 10.0
        assert (process.returncode, server.finished) == (143, [])


def test_a_stopped_trainer_is_named_and_replaced(cluster: str, tmp_path: Path) -> None:
    sft = make_endless_sft(tmp_path) | {"save_steps": 20}
    stall = {"factor": 4.0, "least_s": 15.0}
    spec = make_spec(tmp_path, sft=sft, rl=None, evaluation=None, stall=stall)
    with serving(orders_of(spec, str(tmp_path / "out"))) as server, driver(cluster, server, tmp_path) as process:
        server.wait_until(lambda: len(server.points("sft/nll")) > 100, timeout_s=300)
        [trainer] = actor_processes("ray::Trainer")
        trainer.suspend()
        server.wait_until(lambda: server.events("trainer_restarted"), timeout_s=300)
        before = server.points("sft/nll")[-1][0]
        server.wait_until(lambda: server.points("sft/nll")[-1][0] > before + 20, timeout_s=300)
        process.terminate()
        process.wait(timeout=60)
    [event] = server.events("stalled")
    assert (event.detail["culprit"], event.detail["stage"], event.detail["phase"]) == ("trainer-0", "sft", "training")
    [actor] = event.detail["actors"]
    assert actor["work"] == ["sft_steps"] and actor["processes"][0]["is_stopped"]
    assert "Trainer" in actor["processes"][0]["stacks"] or "no stacks" in actor["processes"][0]["stacks"]


def make_endless_sft(folder: Path) -> dict[str, Any]:
    """An SFT stage that nobody waits for."""
    endless = make_spec(folder).model_dump(mode="json")["sft"] | {"num_epochs": 100_000, "eval_steps": None}
    assert isinstance(endless, dict)
    return endless


def test_ahead_of_the_trainer_a_killed_driver_leaves_all_that_its_successor_needs(cluster: str, tmp_path: Path) -> None:
    body = make_spec(tmp_path).model_dump(mode="json")
    rl = body["rl"] | {"mode": "async", "max_staleness": 1, "rollout_correction": {"mode": "token_truncate"}}
    evaluation = body["evaluation"] | {"sft_steps": [], "points": ["after_rl"]}
    spec = make_spec(tmp_path, sft=None, rl=rl, evaluation=evaluation)
    output_dir = str(tmp_path / "out")
    with serving(orders_of(spec, output_dir)) as first, driver(cluster, first, tmp_path) as process:
        first.wait_until(lambda: len(first.points("reward/mean")) > SAVE_STEPS, timeout_s=600)
        process.kill()
        process.wait(timeout=60)
        # Such folders are removed by a later attempt, when they have been without an owner for a minute.
        for folder in weight_folders():
            shutil.rmtree(folder)
    with serving(orders_of(spec, output_dir)) as second, driver(cluster, second, tmp_path) as again:
        again.wait(timeout=600)
        assert again.returncode == 0, second.finished
    steps = [step for step, _ in second.points("reward/mean")]
    assert steps == list(range(steps[0], NUM_RL_STEPS + 1)) and steps[0] > SAVE_STEPS
    assert all(value <= 1.0 for _, value in second.points("async/staleness/max"))
    assert second.points("training/policy_version") == [(step, float(step)) for step in steps]
    assert [step for step, _ in second.points("eval/test/pass@1")] == [RL_EVAL_STEPS, NUM_RL_STEPS]
    assert [name for name in second.metric_names() if describe_metric(name) is None] == []
    for step in range(1, NUM_RL_STEPS + 1):
        trained = pq.read_table(stored_step_path(output_dir, step)).select(["prompt_uid", "policy_version"])
        assert trained["prompt_uid"].to_pylist()[::8] == prompt_indices_for_step(50, 8, step, spec.seed)
        assert set(trained["policy_version"].to_pylist()) <= {step - 1, max(0, step - 2)}


def test_by_turns_trainer_and_engine_use_the_same_threads(cluster: str, tmp_path: Path) -> None:
    body = make_spec(tmp_path).model_dump(mode="json")
    evaluation = body["evaluation"] | {"sft_steps": [], "rl_eval_steps": None, "points": ["base", "after_rl"]}
    resources = {"trainer": {"num_cpus": 2}, "rollout": {"num_cpus": 2}, "placement": "colocated"}
    rl = body["rl"] | {"num_steps": 2, "save_steps": 1}
    spec = make_spec(tmp_path, sft=None, rl=rl, evaluation=evaluation, resources=resources)
    assert spec.resources.num_cpus == 2.0
    with serving(orders_of(spec, str(tmp_path / "out"))) as server, driver(cluster, server, tmp_path) as process:
        process.wait(timeout=600)
        assert process.returncode == 0, server.finished
    assert server.points("training/policy_version") == [(1, 1.0), (2, 2.0)]
    assert all(abs(value - 1.0) < 0.01 for _, value in server.points("sampling/is_ratio_raw/max"))

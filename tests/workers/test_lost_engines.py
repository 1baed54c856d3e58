"""Two real engines as Ray actors, one of which is killed, then one stopped, in the middle of a rollout."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from service.contract.spec import ExperimentSpec
from tests.workers.fake_actors import RecordedReports
from tests.workers.ray_head import RAY_MARKS, actor_processes, connected_ray
from workers.placement import place
from workers.rollouts import GenerationRequest, Prompt, SamplingParameters
from workers.stages.engine_pool import EnginePool
from workers.stages.engine_supervisor import PoolTimes
from workers.stages.remote_engine import EngineHost

pytestmark = [*RAY_MARKS, pytest.mark.timeout(600)]

BASE = Path(__file__).parents[2] / "examples" / "countdown" / "base"
SAMPLING = SamplingParameters(temperature=1.0, max_completion_length=50)
TIMES = PoolTimes(quiet_s=1.0, token_s=12.0, answer_s=1.0)
JOINED_S = 200.0


class Blow:
    """A check that strikes an engine once the pool has given something to all of them."""

    def __init__(self) -> None:
        self.strike: Callable[[psutil.Process], None] | None = None
        self.pool: EnginePool | None = None

    def __call__(self) -> None:
        if self.pool is None or self.strike is None:
            return
        members = self.pool.members()
        if len(members) == 2 and all(member.num_requests for member in members):
            strike, self.strike = self.strike, None
            strike(actor_processes("ray::RolloutEngine")[0])


@pytest.fixture(scope="module")
def blow() -> Blow:
    return Blow()


@pytest.fixture(scope="module")
def reports() -> RecordedReports:
    return RecordedReports()


@pytest.fixture(scope="module")
def pool(blow: Blow, reports: RecordedReports) -> Iterator[EnginePool]:
    evaluation = {"data": {"path": "/d"}, "reward": {"type": "exact_match"}, "max_completion_length": 50}
    spec = ExperimentSpec.model_validate(
        {
            "name": "two engines",
            "model": {"path": str(BASE), "max_model_len": 64},
            "evaluation": evaluation,
            "resources": {"rollout": {"num_engines": 2}},
        }
    )
    with connected_ray(num_cpus=3):
        placement = place(spec.resources, deadline_s=60.0, check=lambda: None)
        blow.pool = EnginePool(EngineHost(placement, spec), reports, blow, TIMES)
        blow.pool.begin_start()
        blow.pool.wait_started()
        yield blow.pool
        blow.pool.release(5.0)
        wait_until(lambda: actor_processes() == [])
        placement.remove()


def requests_of(num_prompts: int, num_generations: int) -> list[GenerationRequest]:
    prompts = [Prompt(uid=uid, text="", token_ids=(5 + uid % 20, 9, 11), answer="") for uid in range(num_prompts)]
    return [
        GenerationRequest(prompt=prompt, sample_index=index, seed=1000 * prompt.uid + index)
        for prompt in prompts
        for index in range(num_generations)
    ]


@pytest.mark.parametrize(
    ("strike", "cause"),
    [(psutil.Process.kill, "died"), (psutil.Process.suspend, "no token within 12 s")],
    ids=["killed", "stopped"],
)
def test_all_completions_come_although_an_engine_is(
    pool: EnginePool, blow: Blow, reports: RecordedReports, strike: Callable[[psutil.Process], None], cause: str
) -> None:
    reports.events.clear()
    requests = requests_of(64, 16)
    blow.strike = strike
    completions = pool.generate(requests, SAMPLING)
    assert [(done.prompt_uid, done.sample_index) for done in completions] == [
        (request.prompt.uid, request.sample_index) for request in requests
    ]
    assert all(len(done.token_ids) == len(done.logprobs) > 0 for done in completions)
    assert pool.take_metrics()["engines/num_reissued"] > 0
    wait_until(lambda: len(pool.members()) == 2)
    [(kind, detail)] = reports.events
    assert kind == "engine_replaced" and cause in str(detail["cause"]) and detail["requests_reissued"]
    assert len(pool.generate(requests_of(4, 4), SAMPLING)) == 16


def wait_until(fact: Callable[[], bool]) -> None:
    limit = time.monotonic() + JOINED_S
    while not fact():
        assert time.monotonic() < limit, "the fact did not come true in time"
        time.sleep(0.2)

"""The whole decision on small clusters."""

import pytest

from service.contract.waiting import WaitCode
from service.scheduler.decision import Situation, decide
from service.scheduler.decision.facts import (
    Blockers,
    Cluster,
    Dependency,
    GroupLimit,
    HeldReservation,
    Pause,
    Quota,
    Shares,
    Window,
)
from service.scheduler.decision.resources import Demand, Resources, RoleDemand
from tests.service.scheduler.decision.situations import (
    HOUR,
    NOW,
    bundles,
    decided,
    demand,
    entry,
    node,
    running,
    started,
)


def test_class_comes_before_usage_and_usage_before_age() -> None:
    queue = (
        entry("old", queued_at=NOW - 99),
        entry("new", user="eve"),
        entry("first", priority_rank=0, queued_at=NOW - 1),
    )
    decisions = decided(*queue, usage={("p", "ada"): 500.0})
    assert started(decisions) == ["first", "new", "old"]


def test_projects_are_compared_before_their_users() -> None:
    usage = {("p", "ada"): 10.0, ("p", "bob"): 10.0, ("q", "eve"): 15.0}
    decisions = decided(entry("p1"), entry("q1", project="q", user="eve"), usage=usage)
    assert started(decisions) == ["q1", "p1"], "project p used 20 in sum, although ada herself used less than eve"


def test_shares_divide_the_usage() -> None:
    usage = {("p", "ada"): 30.0, ("q", "eve"): 20.0}
    shares = Shares(of_projects={"p": 2.0})
    decisions = decided(entry("p1"), entry("q1", project="q", user="eve"), usage=usage, shares=shares)
    assert started(decisions) == ["p1", "q1"]


def test_turns_alternate_between_users_of_equal_use() -> None:
    flood = [entry(f"a{number}", queued_at=NOW - 50 + number) for number in range(4)]
    decisions = decided(*flood, entry("b0", user="bob", queued_at=NOW), nodes=(node(cpus=2),))
    assert started(decisions) == ["a0", "b0"], "the first admission counts at once"


def test_all_bundles_start_at_once_or_none_does() -> None:
    decisions = decided(entry("gang", demand(2, ranks=3)), nodes=(node("n1", 4), node("n2", 1)))
    assert started(decisions) == []
    assert decisions.waiting["gang"].code is WaitCode.TOO_LARGE


def test_a_bundle_larger_than_any_node_is_named() -> None:
    decisions = decided(entry("big", demand(8)), entry("small"), nodes=(node("n1", 4, kind="H100"), node("n2", 4)))
    assert started(decisions) == ["small"]
    assert decisions.waiting["big"].text == (
        "one trainer actor needs 8 GPUs and 1 CPU on one node, and no node has that: the largest have 4 GPUs (H100) "
        "and 4 CPUs; 4 GPUs (GPU) and 4 CPUs"
    )


def test_a_gang_larger_than_the_cluster_blocks_nobody() -> None:
    decisions = decided(entry("gang", demand(0, 3, ranks=2)), entry("small", queued_at=NOW), nodes=(node(),))
    assert started(decisions) == ["small"]
    assert decisions.waiting["gang"].text == ("needs 6 CPUs at once; the whole cluster has 0 GPUs and 4 CPUs on 1 node")


def test_a_gang_takes_one_node_if_it_can_and_the_fullest_that_has_room() -> None:
    busy = running("r", bundles("n2", 5))
    decisions = decided(
        entry("gang", demand(1, ranks=2, engine=(1, 1))), nodes=(node("n1", 8, 16), node("n2", 8, 16)), running=[busy]
    )
    assert {bundle.node for bundle in decisions.admissions[0].placement} == {"n2"}


def test_bundles_go_to_the_kind_of_gpu_that_was_asked_for() -> None:
    nodes = (node("a", 8, kind="A100"), node("h", 2, kind="H100"))
    decisions = decided(
        entry("h100", demand(2, gpu_types=("H100",))), entry("more", demand(1, gpu_types=("H100",))), nodes=nodes
    )
    assert started(decisions) == ["h100"]
    assert decisions.admissions[0].placement[0].node == "h"
    assert decisions.waiting["more"].code is WaitCode.RESERVED


def test_roles_may_lie_on_different_kinds() -> None:
    roles = (
        RoleDemand(role="trainer", bundle=Resources.demand(1, 2), count=1, gpu_types=("H100",)),
        RoleDemand(role="rollout", bundle=Resources.demand(1, 1), count=2, gpu_types=("L40S",)),
    )
    nodes = (node("h", 2, kind="H100"), node("l", 2, kind="L40S"))
    decisions = decided(entry("both", Demand(roles=roles)), nodes=nodes)
    assert [bundle.node for bundle in decisions.admissions[0].placement] == ["h", "l", "l"]


def test_the_first_that_does_not_fit_is_promised_what_becomes_free() -> None:
    queue = (entry("big", demand(0, 4)), entry("long", queued_at=NOW, user="eve", max_runtime_s=2 * HOUR))
    decisions = decided(*queue, running=[running("r", bundles("n1", 0, 2))])
    assert started(decisions) == []
    assert [(found.id, found.at) for found in decisions.reservations] == [("big", NOW + HOUR)]
    assert decisions.waiting["big"].code is WaitCode.RESERVED
    assert decisions.waiting["long"].code is WaitCode.RESOURCES


def test_whoever_is_done_before_the_reservation_may_go_ahead() -> None:
    queue = (entry("big", demand(0, 4)), entry("short", queued_at=NOW, user="eve", max_runtime_s=HOUR))
    assert started(decided(*queue, running=[running("r", bundles("n1", 0, 2))])) == ["short"]


def test_whoever_fits_beside_the_reservation_may_go_ahead() -> None:
    queue = (entry("big", demand(0, 3)), entry("beside", queued_at=NOW, user="eve", max_runtime_s=99 * HOUR))
    assert started(decided(*queue, running=[running("r", bundles("n1", 0, 2))])) == ["beside"]


def test_each_kind_of_gpu_has_its_own_reservation() -> None:
    nodes = (node("a", 2, kind="A100"), node("h", 2, kind="H100"))
    busy = [running("ra", bundles("a", 1)), running("rh", bundles("h", 1))]
    queue = [entry(kind, demand(2, gpu_types=(kind,))) for kind in ("A100", "H100")]
    decisions = decided(*queue, nodes=nodes, running=busy)
    assert sorted(found.id for found in decisions.reservations) == ["A100", "H100"]


def test_a_promise_is_kept_when_somebody_with_less_use_comes_later() -> None:
    busy = [running("r", bundles("n1", 0, 2))]
    queue = (entry("big", demand(0, 4)), entry("newcomer", demand(0, 4), user="eve"))
    usage = {("p", "ada"): 100.0}
    assert decided(*queue, running=busy, usage=usage).reservations[0].id == "newcomer"
    promise = HeldReservation(experiment_id="big", placement=bundles("n1", 0, 4))
    assert decided(*queue, running=busy, usage=usage, reserved=[promise]).reservations[0].id == "big"


def test_unknown_capacity_admits_nothing_and_says_so() -> None:
    situation = Situation(now=NOW, queue=[entry("a")], cluster=Cluster(unknown_because="Ray does not answer"))
    assert decide(situation).waiting["a"].text == "Ray does not answer"


def test_resources_of_an_attempt_that_ended_stay_taken_until_they_are_seen_free() -> None:
    ended = running("r", bundles("n1", 0, 4), is_ending=True)
    decisions = decided(entry("next"), running=[ended])
    assert started(decisions) == []
    assert decisions.reservations[0].at == NOW + 120


def test_fractions_add_up_exactly() -> None:
    tenth = demand(0, 0.1)
    decisions = decided(*(entry(f"e{number:02}", tenth) for number in range(11)), nodes=(node(cpus=1),))
    assert len(decisions.admissions) == 10


@pytest.mark.parametrize(
    ("blockers", "code"),
    [
        (Blockers(held="held by ada: look first"), WaitCode.HELD),
        (Blockers(not_before=NOW + 60), WaitCode.NOT_BEFORE),
        (Blockers(back_off_until=NOW + 60), WaitCode.BACK_OFF),
        (Blockers(releasing=1), WaitCode.RELEASING),
        (Blockers(dependencies=(Dependency(id="x", status="running"),)), WaitCode.DEPENDENCY),
        (Blockers(dependencies=(Dependency(id="x", status="failed"),)), WaitCode.DEPENDENCY_FAILED),
        (Blockers(unknown_content="its files are being digested"), WaitCode.CONTENT),
    ],
)
def test_what_blocks_an_experiment_blocks_nobody_else(blockers: Blockers, code: WaitCode) -> None:
    decisions = decided(entry("blocked", blockers=blockers), entry("other", queued_at=NOW))
    assert started(decisions) == ["other"]
    assert decisions.waiting["blocked"].code is code


def test_what_has_passed_blocks_no_more() -> None:
    assert started(decided(entry("a", blockers=Blockers(not_before=NOW, back_off_until=NOW - 1)))) == ["a"]


def test_a_paused_project_starts_nothing_and_the_others_go_on() -> None:
    decisions = decided(
        entry("p1"), entry("q1", project="q"), pauses=[Pause(project="p", reason="paused by ada: budget")]
    )
    assert started(decisions) == ["q1"]
    assert decisions.waiting["p1"].text == "project p is paused: paused by ada: budget"


def test_draining_asks_everybody_to_give_way() -> None:
    pause = Pause(project=None, reason="new disks", drains=True)
    decisions = decided(
        entry("a"), running=[running("r", bundles("n1")), running("s", bundles("n1"), is_ending=True)], pauses=[pause]
    )
    assert started(decisions) == []
    assert [found.attempt_id for found in decisions.preemptions] == ["r-a1"]


def test_nothing_starts_that_might_run_into_a_maintenance_window() -> None:
    window = Window(starts_at=NOW + HOUR / 2, ends_at=NOW + 2 * HOUR, reason="disks")
    decisions = decided(entry("long"), entry("short", max_runtime_s=600), windows=[window])
    assert started(decisions) == ["short"]
    assert decisions.waiting["long"].code is WaitCode.MAINTENANCE


def test_a_group_runs_no_more_than_it_may() -> None:
    limits = (GroupLimit(group="study", max_running=2),)
    queue = [entry(name, limits=limits) for name in "abc"]
    decisions = decided(*queue, entry("free"), running=[running("r", bundles("n1"), groups=("study",))])
    assert started(decisions) == ["a", "free"]
    assert decisions.waiting["b"].code is WaitCode.GROUP_LIMIT


@pytest.mark.parametrize(
    ("quota", "text"),
    [
        (Quota(max_running=1), "1 of 1 running experiments allowed"),
        (Quota(max_cpus=1.5), "holds 1 of 1.5 CPUs allowed, needs 1 more"),
    ],
)
def test_a_quota_lets_others_pass(quota: Quota, text: str) -> None:
    queue = (entry("a"), entry("b"), entry("c", user="eve", queued_at=NOW))
    decisions = decided(*queue, quotas={("p", "ada"): quota})
    assert started(decisions) == ["a", "c"]
    assert decisions.waiting["b"].text == f"user ada in project p: {text}"


def test_gpu_hours_are_never_exceeded_even_if_everybody_runs_to_his_end() -> None:
    quota = {("p", ""): Quota(max_gpu_hours=10)}
    queue = (entry("three", demand(3)), entry("two", demand(2), queued_at=NOW))
    facts = {"nodes": (node(gpus=8),), "quotas": quota, "running": [running("r", bundles("n1", 2), left_s=HOUR)]}
    decisions = decided(*queue, gpu_seconds_in_window={("p", ""): 4 * HOUR}, **facts)
    assert started(decisions) == ["three"]
    assert "of 10 GPU-hours in 7 days allowed about 9 are used" in decisions.waiting["two"].text


def test_the_same_training_runs_once_at_a_time() -> None:
    queue = (entry("a", stage_key="k"), entry("b", stage_key="k"), entry("c", stage_key="other"))
    decisions = decided(*queue)
    assert started(decisions) == ["a", "c"]
    assert (decisions.waiting["b"].code, decisions.waiting["b"].behind) == (WaitCode.SAME_STAGE, "a")

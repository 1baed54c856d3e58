"""The tables of allowed moves, as pure data."""

import pytest

from service.contract.status import ATTEMPT_MOVES, EXPERIMENT_MOVES, AttemptStatus, EndReason, ExperimentStatus


def test_every_status_has_its_moves() -> None:
    assert set(EXPERIMENT_MOVES) == set(ExperimentStatus)
    assert set(ATTEMPT_MOVES) == set(AttemptStatus)


def test_every_status_but_the_first_can_be_reached() -> None:
    reached = {to for following in EXPERIMENT_MOVES.values() for to in following}
    assert reached == set(ExperimentStatus)  # `queued` too: by a retry
    assert {to for following in ATTEMPT_MOVES.values() for to in following} == set(AttemptStatus) - {"launching"}


def test_only_a_retry_leads_out_of_an_end() -> None:
    for status in ExperimentStatus:
        if status.is_terminal:
            assert EXPERIMENT_MOVES[status] <= {ExperimentStatus.QUEUED}
        else:
            assert EXPERIMENT_MOVES[status], status


def test_an_ended_attempt_stays_ended() -> None:
    assert ATTEMPT_MOVES[AttemptStatus.ENDED] == frozenset()


@pytest.mark.parametrize("reason", EndReason)
def test_every_reason_leads_to_an_end(reason: EndReason) -> None:
    assert reason.to_status().is_terminal

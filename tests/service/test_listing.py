"""Lists of experiments in every order, page by page."""

from datetime import timedelta

import pytest

from api.cursors import decode_list_start, encode_list_start
from service import listing
from service.access import EVERYTHING
from service.contract.status import ExperimentStatus
from service.listing import LIST_ORDERS, ExperimentFilter, ListOrder
from service.storage.database import Sessions
from tests.factories import NOW, make_experiment, make_user, spec_body

pytestmark = pytest.mark.anyio
WANTED: dict[ListOrder, list[str]] = {
    "newest": ["d", "C", "b", "A"],
    "oldest": ["A", "b", "C", "d"],
    "name": ["A", "b", "C", "d"],
    "started": ["b", "A", "d", "C"],
    "ended": ["A", "d", "C", "b"],
}


@pytest.mark.parametrize("order", LIST_ORDERS)
async def test_pages_in_any_order_leave_nothing_out_and_repeat_nothing(sessions: Sessions, order: ListOrder) -> None:
    async with sessions.begin() as session:
        for place, name in enumerate("AbCd"):
            experiment = await make_experiment(session, name=name)
            experiment.submitted_at = NOW + timedelta(seconds=place)
            experiment.started_at = NOW + timedelta(hours=place) if name in "Ab" else None
            if name == "A":
                experiment.status, experiment.end_reason, experiment.ended_at = "succeeded", "completed", NOW
    found: list[str] = []
    async with sessions() as session:
        start, is_first = None, True
        while start is not None or is_first:
            views, start = await listing.list_page(
                session, visible=EVERYTHING, wanted=ExperimentFilter(), limit=1, start=start, order=order
            )
            start = decode_list_start(encode_list_start(start, order), order) if start else None
            is_first = False
            found += [view.experiment.name for view in views]
    # Those that have not started, or not ended, stand in the order of their ids: at the same moment, thus by chance.
    known = {"started": 2, "ended": 1}.get(order, 4)
    assert found[:known] == WANTED[order][:known] and sorted(found) == sorted("AbCd")


async def test_text_objective_user_and_statuses_narrow_lists_and_counts(sessions: Sessions) -> None:
    sed = {"sft": {**spec_body()["sft"], "objective": {"type": "sed"}}}
    async with sessions.begin() as session:
        bo = await make_user(session, "bo")
        await make_experiment(session, name="one", description="Why DIVERSITY", **sed)
        await make_experiment(session, name="two", tags=["diverse"], user=bo)
        three = await make_experiment(session, name="three")

    async def names(**wanted: object) -> set[str]:
        async with sessions() as session:
            narrowed = ExperimentFilter(**wanted)  # type: ignore[arg-type]
            views, _ = await listing.list_page(session, visible=EVERYTHING, wanted=narrowed, limit=9, start=None)
            counts = await listing.count_by_status(session, visible=EVERYTHING, wanted=narrowed)
        assert sum(counts.values()) == len(views)
        return {view.experiment.name for view in views}

    assert await names(text="divers") == {"one", "two"}
    assert await names(text=three.id) == {"three"} and await names(text="%") == set()
    assert await names(objective="sed") == {"one"} and await names(user="bo") == {"two"}
    assert await names(statuses=[ExperimentStatus.QUEUED]) == {"one", "two", "three"}

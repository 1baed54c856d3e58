"""The page of one experiment in a browser: charts, course, tokens, rollouts, log."""

import re

import pytest
from playwright.sync_api import Page, expect

from service import metric_store, reporting
from service.storage.tables import Attempt
from tests.browser.experiment_world import RL_STEPS, SPIKE_AT, columns, make_world
from tests.browser.site import Site
from tests.browser.visiting import Visit
from tests.factories import make_report

LOSS = "figure[data-names^='sft/loss']"
REWARD = "figure[data-names^='reward/mean']"


@pytest.fixture
def attempt(site: Site) -> Attempt:
    """Of the experiment that has gone through all."""
    return site.feed(lambda session: make_world(session, site.app.state.settings))


@pytest.fixture
def page(visit: Visit, attempt: Attempt) -> Page:
    """Its page."""
    return visit(f"/experiments/{attempt.experiment_id}")


def trace_of(page: Page, figure: str, place: str) -> dict[str, list[float | None]]:
    """The first drawn line of a chart that has the label: its `x`, `y` and its steps."""
    drawn = page.locator(f"{figure} .chart")
    drawn.scroll_into_view_if_needed()
    expect(drawn.locator(".main-svg").first).to_be_visible()
    found: dict[str, list[float | None]] = drawn.evaluate(
        """(chart, label) => { const one = chart.data.filter((trace) => trace.name === label).at(-1);
        return {x: [...one.x], y: [...one.y], steps: [...one.customdata]}; }""",
        place,
    )
    return found


def test_a_live_value_arrives_in_its_chart(site: Site, page: Page, attempt: Attempt) -> None:
    assert trace_of(page, REWARD, "mean")["steps"][-1] == RL_STEPS
    site.feed(
        lambda session: metric_store.append_columns(session, attempt, [columns("reward/mean", [RL_STEPS + 1], [0.5])])
    )
    site.feed(lambda session: reporting.take_report(session, attempt, make_report(2)))
    page.wait_for_function(
        "([figure, last]) => document.querySelector(`${figure} .chart`).data[0].x.at(-1) === last",
        arg=[REWARD, RL_STEPS + 1],
    )


def drag(page: Page, figure: str, start: float, end: float) -> None:
    """Over a stretch of a chart, in shares of its width."""
    area = page.locator(f"{figure} .nsewdrag").bounding_box()
    assert area is not None
    height = area["y"] + area["height"] / 2
    page.mouse.move(area["x"] + start * area["width"], height)
    page.mouse.down()
    page.mouse.move(area["x"] + end * area["width"], height, steps=5)
    page.mouse.up()


def is_drawn(page: Page, figure: str, value: float, *, drawn: bool) -> None:
    """Waits until the line shows the value, or does not."""
    page.wait_for_function(
        """([figure, value, drawn]) => {
          const lines = document.querySelector(`${figure} .chart`).data.filter((one) => one.name === "loss");
          return [...lines.at(-1).y].includes(value) === drawn;
        }""",
        arg=[figure, value, drawn],
    )


def test_zooming_reads_the_stretch_in_detail_and_the_whole_comes_back(page: Page) -> None:
    whole = trace_of(page, LOSS, "loss")
    assert 9.0 not in whole["y"] and len(whole["y"]) <= 600  # a mean of several steps
    with page.expect_response(re.compile(r"/metrics\?.*from_step=1\d\d\d&to_step=1\d\d\d")):
        drag(page, LOSS, 0.65, 0.8)
    is_drawn(page, LOSS, 9.0, drawn=True)
    close = trace_of(page, LOSS, "loss")
    assert close["steps"][close["y"].index(9.0)] == SPIKE_AT
    page.locator(LOSS).get_by_role("button", name="Whole").click()
    is_drawn(page, LOSS, 9.0, drawn=False)

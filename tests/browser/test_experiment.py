"""The page of one experiment in a browser: charts, course, tokens, rollouts, log."""

import re

import pytest
from playwright.sync_api import Page, expect

from service import metric_store, reporting
from service.storage.tables import Attempt
from tests.browser.experiment_world import RL_STEPS, SPIKE_AT, columns, make_world
from tests.browser.looking import assert_accessible, assert_fits_a_phone
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
    """Its page, once the course above the charts has its place."""
    page = visit(f"/experiments/{attempt.experiment_id}")
    expect(page.locator("#timeline .lane")).to_have_count(2)
    return page


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


def test_flexible_tokens_are_coloured_and_their_numbers_shown(page: Page) -> None:
    panes = page.locator("#token-view .pane").first
    panes.scroll_into_view_if_needed()
    kinds = panes.locator(".token[data-place]").evaluate_all("(all) => all.map((one) => one.className.split(' ')[1])")
    assert kinds == ["prompt", "flexible", "rigid"]
    panes.locator(".token.rigid").hover()
    numbers = page.locator("#token-view .readout tbody tr").first.locator("td").all_inner_texts()
    assert numbers[2:4] + numbers[5:] == ["0.875", "1", "1", "rigid"]


def test_the_course_shows_attempts_stages_and_incidents(page: Page) -> None:
    lanes = page.locator("#timeline .lane")
    expect(lanes).to_have_count(2)
    expect(lanes.first.locator(".span.sft")).to_have_attribute("title", re.compile("1250 of 2000 steps, interrupted"))
    expect(lanes.last.locator(".span.rl.running")).to_be_attached()
    expect(page.locator(".incidents")).to_contain_text("rollout engine 0 was replaced")


def test_rollouts_are_filtered_and_one_prompt_followed_over_the_steps(page: Page) -> None:
    rollouts = page.locator("#rollouts")
    rollouts.scroll_into_view_if_needed()
    rows = rollouts.locator("tbody tr")
    rollouts.get_by_label("Least reward").fill("1.5")
    rollouts.get_by_role("button", name="Show", exact=True).click()
    expect(rows).to_have_count(2 * RL_STEPS)
    expect(rows.first).to_contain_text("(cut)")
    rollouts.get_by_role("button", name="Prompt 7 over the steps").first.click()
    expect(rows).to_have_count(25)
    expect(rows.first.locator("td").first).to_have_text("1")
    rollouts.get_by_role("button", name="Next").click()
    expect(rows).to_have_count(4 * RL_STEPS - 25)


def test_the_log_is_searched_and_goes_back_to_its_first_line(page: Page) -> None:
    log = page.locator("#log-section")
    older = log.get_by_role("button", name="Older lines")
    for _ in range(2):
        with page.expect_response(re.compile("before=")):
            older.click()
    expect(older).to_be_disabled()
    expect(log.locator(".line .text").first).to_have_text("line 0")
    log.get_by_label("Find").fill("LINE 77")
    log.get_by_label("Find").press("Enter")
    expect(log.locator(".line")).to_have_count(11)
    expect(log.locator("mark").first).to_have_text("line 77")
    log.get_by_label("Find").fill("")
    log.get_by_label("Written by").select_option("role=Trainer")
    expect(log.locator(".line")).to_have_count(1)


def test_texts_from_runs_do_nothing_and_the_page_is_for_everybody(page: Page) -> None:
    for part in ("#charts", "#token-view", "#rollouts", "#log-section", "#outputs"):
        page.locator(part).scroll_into_view_if_needed()
    page.get_by_text("All metrics without a chart").click()
    page.get_by_role("button", name="sft/epoch").click()
    expect(page.locator("#more-metrics figure .main-svg").first).to_be_visible()
    assert page.evaluate("window.attacked") is None
    assert page.locator("img").count() == 0
    assert_fits_a_phone(page)
    assert_accessible(page)

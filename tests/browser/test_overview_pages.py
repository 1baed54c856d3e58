"""Queue, experiments and cluster in a real browser, as a busy team and its readers see them."""

import re

import pytest
from playwright.sync_api import expect
from sqlalchemy.ext.asyncio import AsyncSession

from service.contract.access import ProjectRole
from service.storage.tables import Experiment
from tests.browser.busy_team import ATTACK, BusyTeam, fill
from tests.browser.looking import assert_accessible, assert_fits_a_phone
from tests.browser.site import Site
from tests.browser.visiting import Visit
from tests.factories import make_experiment, make_user


@pytest.fixture
def team(site: Site) -> BusyTeam:
    """A team at work."""
    team = BusyTeam(site.app.state.sessions)
    site.run(fill(team))
    return team


def row_of(experiment_id: str) -> str:
    return f'tr[data-key="{experiment_id}"]'


def status_of(site: Site, experiment_id: str) -> str:
    async def read(session: AsyncSession) -> str:
        return (await session.get_one(Experiment, experiment_id)).status

    return site.feed(read)


def test_a_busy_team_reads_queue_experiments_and_cluster(site: Site, visit: Visit, team: BusyTeam) -> None:
    page = visit("/queue")
    running = page.locator("#running tbody tr")
    expect(running).to_have_count(3)
    expect(running.filter(has_text="gsm8k-sed-then-grpo")).to_contain_text("142 / 400")
    expect(page.locator("#waiting tbody tr").first).to_contain_text("holds 4 of 8 GPUs allowed")
    expect(page.locator(row_of(team.ids["countdown-gem-s2"]))).to_contain_text(re.compile(r"in \d.* – in \d"))
    expect(page.locator("#capacity")).to_contain_text("H100: 6 of 8")
    expect(page.locator("#standings")).to_contain_text("of 400 in 7 d")
    page.goto("/cluster")
    expect(page.locator("#nodes tbody tr").first).to_contain_text("10.0.0.1 head")
    expect(page.locator("#nodes")).to_contain_text("6 GPUs · 24 CPUs")
    expect(page.locator("#actors")).to_contain_text("2 engines")
    expect(page.locator("#processes")).to_contain_text("leads")
    for path in ("/queue", "/", "/cluster", "/account"):
        page.goto(path)
        assert_accessible(page)
        assert_fits_a_phone(page)


def test_the_queue_is_live_and_takes_orders(site: Site, visit: Visit, team: BusyTeam) -> None:
    page = visit("/queue")
    page.evaluate("window.sameDocument = true")
    held = page.locator(row_of(team.ids["math-sed-8gpu"]))
    held.get_by_role("button", name="Hold").focus()

    new = site.run(team.submit(ATTACK, "bo", "math-rl", objective="sed", tags=["x"]))

    expect(page.locator(row_of(new))).to_contain_text(ATTACK)
    assert page.evaluate("document.activeElement.dataset.order") == "hold", "what is under the keyboard stays there"
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("math-sed-8gpu: held")
    expect(held.get_by_role("button", name="Release")).to_be_visible()
    page.locator(row_of(new)).get_by_role("button", name="Cancel").click()
    expect(page.locator(row_of(new))).to_have_count(0)
    assert status_of(site, new) == "cancelled"
    held.get_by_role("combobox").select_option("low")
    expect(page.get_by_role("status")).to_have_text("math-sed-8gpu: moved")
    assert page.evaluate("window.sameDocument") is True
    page.on("dialog", lambda dialog: dialog.accept())
    page.locator(row_of(team.ids["olympiad-ce-s1"])).get_by_role("button", name="Cancel").click()
    expect(page.locator(row_of(team.ids["olympiad-ce-s1"]))).to_contain_text("cancelling")


def test_the_queue_is_paused_and_resumed_by_those_who_may(site: Site, visit: Visit) -> None:
    page = visit("/queue", is_admin=True)
    page.locator("#pausing > summary").click()
    page.get_by_label("Why").fill("<b>new switches</b>")
    page.get_by_role("button", name="Pause", exact=True).click()

    expect(page.locator("#orders")).to_contain_text("Paused: the whole queue. <b>new switches</b>")
    guest = visit("/queue", user="guest", role=None)
    expect(guest.locator("#orders")).to_contain_text("Paused")
    expect(guest.get_by_role("button", name="Resume")).to_have_count(0)
    expect(guest.locator("#pausing")).to_have_count(0)
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#orders")).not_to_contain_text("Paused")


def test_experiments_are_found_selected_and_ordered_together(site: Site, visit: Visit) -> None:
    async def make(session: AsyncSession) -> list[str]:
        await make_user(session, "bo")
        names = ("alpha", "beta", ATTACK)
        return [
            (await make_experiment(session, name=name, tags=["t"], description=f"about {name}")).id for name in names
        ]

    alpha, beta, _ = site.feed(make)
    page = visit("/")

    page.get_by_label("Select alpha").check()
    page.get_by_role("searchbox").fill("about beta")
    page.keyboard.press("Enter")
    expect(page.locator("#experiments tbody tr")).to_have_count(1)
    page.get_by_label("Select beta").check()
    bulk = page.get_by_role("region", name="Selected experiments")
    expect(bulk).to_contain_text("2 selected")
    expect(bulk.get_by_role("link", name="Compare")).to_have_attribute("href", f"/compare?ids={alpha},{beta}")
    bulk.get_by_role("button", name="Hold").click()
    expect(page.get_by_role("status")).to_have_text("hold: 2 of 2 done.")
    expect(bulk).to_be_hidden()
    page.goto("/?order=name")
    assert page.locator("#experiments td.name a:first-child").all_inner_texts() == [ATTACK, "alpha", "beta"]
    page.get_by_label("Select beta").check()
    page.on("dialog", lambda dialog: dialog.accept())
    bulk.get_by_role("button", name="Cancel").click()
    expect(page.locator(row_of(beta))).to_contain_text("cancelled")
    assert (status_of(site, alpha), status_of(site, beta)) == ("queued", "cancelled")


def test_a_viewer_reads_in_their_own_zone_and_sees_no_button_that_would_be_refused(site: Site, visit: Visit) -> None:
    experiment = site.feed(make_experiment)
    tokyo = {"timezone_id": "Asia/Tokyo", "locale": "en-GB"}

    page = visit("/queue", user="vera", role=ProjectRole.VIEWER, context=tokyo)

    expect(page.locator(row_of(experiment.id))).to_contain_text("toy")
    expect(page.locator("[data-order]")).to_have_count(0)
    page.evaluate("""() => {
        const time = document.createElement("time");
        time.dateTime = "2026-03-01T20:30:00+00:00";
        document.querySelector("#message").append(time);
    }""")
    expect(page.locator("#message time")).to_have_text("2 Mar 2026, 05:30")

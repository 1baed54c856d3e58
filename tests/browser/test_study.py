"""The page of a study: its report with plots, and how it changes while runs end."""

from playwright.sync_api import expect

from tests.api.study_world import STUDY, end_runs
from tests.browser.looking import assert_accessible, assert_fits_a_phone
from tests.browser.site import Site
from tests.browser.visiting import Visit
from tests.factories import make_study


def test_the_report_is_drawn_and_follows_the_runs(site: Site, visit: Visit) -> None:
    study = site.feed(lambda session: make_study(session, **{**STUDY, "question": "<b>Does</b> it help?"}))
    site.run(end_runs(site.app.state.sessions, study.id, 1, 2, 3))
    page = visit(f"/studies/{study.id}")
    expect(page.locator(".question")).to_have_text("<b>Does</b> it help?")
    charts = page.locator("#study-report .chart")
    expect(charts.locator("svg.main-svg:first-child")).to_have_count(charts.count())
    expect(page.locator(".chart .bars")).not_to_have_count(0)
    page.get_by_label("tokens trained").check()
    expect(page.locator(".chart .xtitle", has_text="tokens trained")).to_have_count(2)
    assert_accessible(page)
    assert_fits_a_phone(page)
    expect(page.locator("#study-runs")).to_contain_text("6 of 12 ended")
    site.run(end_runs(site.app.state.sessions, study.id, 4, 5, 6))
    expect(page.locator("#study-runs")).to_contain_text("12 of 12 ended")
    expect(page.locator(".answers li").first).to_contain_text("distinguishable (p = 0.031)")
    expect(page.get_by_label("tokens trained")).to_be_checked()

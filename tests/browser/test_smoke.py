"""The harness itself: a page of the real server in a real browser."""

from playwright.sync_api import expect

from tests.browser.site import Site
from tests.browser.visiting import Visit
from tests.factories import make_experiment


def test_somebody_logged_in_sees_the_experiments(site: Site, visit: Visit) -> None:
    experiment = site.feed(make_experiment)

    page = visit("/")

    expect(page.get_by_role("link", name="toy")).to_have_attribute("href", f"/experiments/{experiment.id}")
    with page.expect_console_message():
        page.evaluate("fetch('/nowhere')")
    assert len(visit.complaints) == 1 and "404" in visit.complaints.pop()

"""Writing a specification on the page: form and text in step, findings at their lines, submitting."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.looking import assert_accessible, assert_fits_a_phone
from tests.browser.site import Site
from tests.browser.visiting import Visit
from tests.factories import make_experiment


@pytest.fixture
def page(site: Site, visit: Visit) -> Page:
    """A copy of an experiment whose name would be markup, ready to be changed."""
    experiment = site.feed(lambda session: make_experiment(session, name="<img src=x onerror=alert(1)>"))
    page = visit(f"/new?from={experiment.id}")
    expect(page.locator("#state")).to_have_text("Ready to be submitted")
    return page


def text_of(page: Page) -> str:
    return page.locator("#text").input_value()


def test_form_and_text_stay_in_step(page: Page) -> None:
    before = text_of(page)
    page.get_by_label("batch_size").fill("16")
    page.get_by_label("batch_size").blur()
    expect(page.locator("#text")).to_have_value(before.replace("batch_size: 8", "batch_size: 16"))
    page.get_by_role("button", name="set objective").click()
    page.locator('[data-path="sft.objective.type"]').select_option("sed")
    expect(page.locator("#text")).to_have_value(re.compile("type: sed"))
    assert text_of(page).startswith("# from ")
    page.locator("#text").fill(text_of(page).replace("num_epochs: 1", "num_epochs: 7"))
    expect(page.get_by_label("num_epochs")).to_have_value("7")
    page.get_by_role("checkbox", name="SFT").uncheck()
    expect(page.locator("#findings")).to_contain_text("nothing to do")


def test_an_error_appears_at_its_line_and_its_field(page: Page) -> None:
    lines = text_of(page).split("\n")
    [at] = [number for number, line in enumerate(lines) if "batch_size" in line]
    lines[at] = lines[at].replace("8", "none at all")
    page.locator("#text").fill("\n".join(lines))
    expect(page.locator("#gutter .bad")).to_have_text(str(at + 1))
    expect(page.locator("#submit")).to_be_disabled()
    expect(page.get_by_label("batch_size")).to_have_attribute("aria-invalid", "true")
    page.get_by_role("button", name=f"line {at + 1}").click()
    assert page.evaluate("document.activeElement.id") == "text"
    assert_accessible(page)
    assert_fits_a_phone(page)


def test_what_is_ready_is_submitted(page: Page) -> None:
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**/experiments/exp-*")
    expect(page.get_by_role("heading", level=1)).to_have_text("<img src=x onerror=alert(1)>")

"""What must hold of every page: nothing in the console, no barrier for assistive technology, no sideways scrolling."""

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

PHONE = {"width": 390, "height": 844}
_AXE = Axe()


def assert_accessible(page: Page) -> None:
    """axe finds nothing, in the light and in the dark scheme; raises AssertionError with all that it found."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        found = _AXE.run(page)
        assert found.violations_count == 0, f"in the {scheme} scheme of {page.url}:\n{found.generate_report()}"
    page.emulate_media(color_scheme="light")


def assert_fits_a_phone(page: Page) -> None:
    """At a phone's width the page as a whole does not scroll sideways (tables may, within themselves)."""
    before = page.viewport_size
    page.set_viewport_size(PHONE)
    too_wide = page.evaluate(
        """() => [...document.querySelectorAll("body *")]
          .filter((one) => one.getBoundingClientRect().right > innerWidth + 1)
          .slice(0, 8).map((one) => `${one.tagName}.${one.className}#${one.id}`)"""
    )
    width = page.evaluate("document.scrollingElement.scrollWidth")
    assert width <= PHONE["width"], f"{page.url} is {width} px wide on a phone; beyond its edge: {too_wide}"
    if before is not None:
        page.set_viewport_size(before)

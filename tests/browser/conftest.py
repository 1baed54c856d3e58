"""Headless Chromium on the real API, each test on a database of its own.

All tests in this folder carry the marker `browser` and are skipped where there is no Chromium. One browser serves them
all, one after the other; it is closed behind the last test of this folder, because Playwright's synchronous interface
leaves a running event loop in the thread, and no asynchronous test could run beside it. So tests here are plain
functions, and feed the database by `site.feed`.

    def test_the_page_shows_it(site: Site, visit: Visit) -> None:
        experiment = site.feed(make_experiment)
        page = visit(f"/experiments/{experiment.id}")
        expect(page.get_by_role("heading", level=1)).to_have_text("toy")
        assert_accessible(page)
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright
from pydantic import SecretStr

from api.submission import PlanExperiment
from service.settings import ApiSettings
from tests.api.conftest import SECRET, plan_anything
from tests.browser.site import Site, free_port, serving
from tests.browser.visiting import Visit

HERE = Path(__file__).parent
_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in _NAMES if (found := shutil.which(name))), None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what is in this folder."""
    missing = pytest.mark.skip(reason="no chromium, chromium-browser or google-chrome on the PATH")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("browser")
            if CHROMIUM is None:
                item.add_marker(missing)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """One process for all tests of this folder."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def plan() -> PlanExperiment | None:
    """How submissions are planned: anything runs. A module that wants the real planner overrides this with None."""
    return plan_anything


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> ApiSettings:
    """Of the served API."""
    key_file, port = tmp_path / "secret_key", free_port()
    key_file.write_bytes(SECRET)
    return ApiSettings(
        database_url=SecretStr(database_url),
        secret_key_file=key_file,
        output_root=str(tmp_path / "outputs"),
        port=port,
        public_url=f"http://127.0.0.1:{port}",
    )


@pytest.fixture
def site(settings: ApiSettings, plan: PlanExperiment | None) -> Iterator[Site]:
    """The running server."""
    with serving(settings, plan) as site:
        yield site


@pytest.fixture
def visit(browser: Browser, site: Site) -> Iterator[Visit]:
    """Fails the test at its end if a console complained."""
    visit = Visit(browser, site)
    yield visit
    for context in browser.contexts:
        context.close()
    assert visit.complaints == [], "consoles complained"

"""Pictures of the overview pages for docs/, from a database that a busy team has filled.

`python -m tests.browser.pictures [NAME …]` writes docs/NAME.png, 1280 pixels wide, in at most 256 colours.
"""

import sys
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image  # vLLM brings it along
from playwright.sync_api import sync_playwright
from pydantic import SecretStr

from migrations import apply
from service.settings import ApiSettings
from tests.api.conftest import SECRET, plan_anything
from tests.browser.busy_team import BusyTeam, fill
from tests.browser.conftest import CHROMIUM
from tests.browser.site import free_port, serving
from tests.browser.visiting import Visit

PAGES = {"queue": "/queue", "experiments": "/", "cluster": "/cluster"}
WIDTH, SETTLED_MS, NUM_COLOURS = 1280, 500, 256


def main(names: list[str], folder: Path) -> None:
    """Takes the pictures of these names, or all."""
    from bench.servers import postgres  # its server is not for tests alone

    with postgres() as database, tempfile.TemporaryDirectory() as scratch:
        database.execute("postgres", "CREATE DATABASE pictures")
        apply.upgrade(database.url("pictures"))
        key, port = Path(scratch) / "key", free_port()
        key.write_bytes(SECRET)
        settings = ApiSettings(
            database_url=SecretStr(database.url("pictures")),
            secret_key_file=key,
            output_root=scratch,
            port=port,
            public_url=f"http://127.0.0.1:{port}",
            ray_dashboard_public_url="http://127.0.0.1:8265",
        )
        with serving(settings, plan_anything) as site, sync_playwright() as playwright:
            site.run(fill(BusyTeam(site.app.state.sessions)))
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            visit = Visit(browser, site)
            for name in names or PAGES:
                look, _, page_name = name.rpartition(":")
                options = {
                    "dark": {"color_scheme": "dark"},
                    "phone": {"viewport": {"width": 390, "height": 844}},
                }.get(look, {})
                page = visit(PAGES[page_name], context={"viewport": {"width": WIDTH, "height": 900}, **options})
                page.wait_for_timeout(SETTLED_MS)
                _keep(page.screenshot(full_page=True), folder / f"{name.replace(':', '-')}.png")
            browser.close()


def _keep(picture: bytes, path: Path) -> None:
    """In few colours, which is a third of the size and looks the same: pages are flat."""
    with Image.open(BytesIO(picture)) as image:
        flat = image.convert("RGB").quantize(NUM_COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        flat.save(path, optimize=True)


if __name__ == "__main__":
    given = [one for one in sys.argv[1:] if not one.startswith("--to=")]
    to = next((one.removeprefix("--to=") for one in sys.argv[1:] if one.startswith("--to=")), "docs")
    main(given, Path(to))

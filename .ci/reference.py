"""Reference pages that are made from the code: `python .ci/reference.py FOLDER` writes them there.

`make reference` writes them to docs/reference, for reading without the site; the site's build calls `pages()`. They are
files of no checkout.
"""

import sys
from pathlib import Path

from reference_cli import cli_reference
from reference_errors import errors_reference
from reference_metrics import metrics_reference
from reference_rest import rest_reference
from reference_spec import spec_reference


def pages() -> dict[str, str]:
    """Name and text of each page."""
    return {
        "specification.md": spec_reference(),
        "metrics.md": metrics_reference(),
        "cli.md": cli_reference(),
        "rest.md": rest_reference(),
        "errors.md": errors_reference(),
    }


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for page, text in pages().items():
        (target / page).write_text(text, "utf-8")

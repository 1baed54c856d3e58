"""`python -m workers.pipeline`: one attempt of one experiment, inside one Ray job."""

import logging
import sys

from pydantic import ValidationError

from workers.log_capture import configure_logging
from workers.pipeline.session import EXIT_REFUSED, run_session
from workers.settings import WorkerSettings

logger = logging.getLogger("workers.pipeline")


def main() -> int:
    """Read the settings and run; returns the exit code (see `session`)."""
    configure_logging()
    try:
        settings = WorkerSettings()
        token = settings.token()
    except ValidationError as error:
        problems = [
            f"SEDRAY_{str(item['loc'][0]).upper()}: {item['msg']}" for item in error.errors(include_input=False)
        ]
        logger.error("settings refused", extra={"problems": problems})
        return EXIT_REFUSED
    except ValueError as error:
        logger.error("settings refused", extra={"problems": [str(error)]})
        return EXIT_REFUSED
    return run_session(settings, token)


if __name__ == "__main__":
    sys.exit(main())

"""The API's process: `python -m api.server`, with its settings in the environment (`SEDRAY_…`)."""

import gc
import logging
import signal
import socket
import sys

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError
from pydantic_settings import SettingsError

from api.app import create_app
from service.log_format import configure_logging
from service.settings import ApiSettings
from service.telemetry import serve_metrics
from service.tracing import configure_tracing, flush_tracing

logger = logging.getLogger(__name__)
GRACE_S = 4
"""Time for requests in flight when the process is told to stop."""


class _Server(uvicorn.Server):
    """Ends live streams first: a browser would hold its connection open for as long as it is allowed to."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        app = self.config.app
        assert isinstance(app, FastAPI)
        await app.state.live_updates.stop()
        await super().shutdown(sockets)


def main() -> None:
    """Serves until SIGTERM or SIGINT, then ends with exit status 0."""
    configure_logging()
    app = create_app(_read_settings())
    settings: ApiSettings = app.state.settings
    configure_tracing("api", settings.otlp_endpoint)
    serve_metrics(settings.metrics_host, settings.metrics_port)
    # What start-up has made stays: the collector need not look through it again and again.
    gc.collect()
    gc.freeze()
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,  # the app writes its own, without query strings
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_S,
        lifespan="on",
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again after it has stopped; by then there is nothing left to do.
        signal.signal(number, lambda *_: None)
    _Server(config).run()
    flush_tracing()
    logger.info("api stopped")


def _read_settings() -> ApiSettings:
    try:
        return ApiSettings()
    except ValidationError as error:
        missing = "; ".join(
            f"SEDRAY_{'_'.join(map(str, details['loc'])).upper()}: {details['msg']}"
            for details in error.errors(include_input=False, include_url=False)
        )
        sys.exit(f"the API's settings are not complete: {missing}; set them in the environment")
    except SettingsError as error:
        sys.exit(f"the API's settings cannot be read: {error}; lists and mappings are given as JSON")


if __name__ == "__main__":
    main()

"""`python -m service.scheduler.main`: settings, connections, signals. Stops cleanly on SIGTERM and SIGINT."""

import asyncio
import logging
import signal

from service.log_format import configure_logging
from service.scheduler.process import SchedulerProcess
from service.scheduler.ray_gateway import RayDashboard
from service.scheduler.wakeups import listen
from service.settings import SchedulerSettings
from service.storage.database import create_engine, create_sessions
from service.telemetry import serve_metrics
from service.tracing import configure_tracing, flush_tracing
from service.webhooks.loop import DeliveryLoop
from service.webhooks.sending import Sender

logger = logging.getLogger(__name__)


async def run(settings: SchedulerSettings) -> None:
    """Runs the scheduler until a signal."""
    configure_tracing("scheduler", settings.otlp_endpoint)
    serve_metrics(settings.metrics_host, settings.metrics_port)
    database_url = settings.database_url.get_secret_value()
    engine = create_engine(database_url)
    dashboard = RayDashboard(
        settings.ray_dashboard_url,
        settings.ray_token_file,
        timeout_s=settings.ray_timeout_s,
        agent_port=settings.ray_agent_port,
    )
    sender = Sender(settings.webhook_allowed_hosts)
    try:
        async with dashboard:
            sessions = create_sessions(engine)
            process = SchedulerProcess(sessions, dashboard, settings)
            # Without the lease: a claim keeps two processes from sending the same.
            webhooks = DeliveryLoop(sessions, sender, settings.secret_key())
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, process.stop)
            beside = [
                asyncio.create_task(listen(database_url, [process.changed, webhooks.changed])),
                asyncio.create_task(webhooks.run()),
            ]
            logger.info("scheduler started", extra={"ray": settings.ray_dashboard_url})
            try:
                await process.run()
            finally:
                for task in beside:
                    task.cancel()
                await asyncio.wait(beside)
    finally:
        await sender.close()
        await engine.dispose()
        flush_tracing()
        logger.info("scheduler stopped")


def main() -> None:
    """Reads the settings from the environment (`SEDRAY_…`); an incomplete one ends here with its names."""
    configure_logging()
    asyncio.run(run(SchedulerSettings()))


if __name__ == "__main__":
    main()

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

logger = logging.getLogger(__name__)


async def run(settings: SchedulerSettings) -> None:
    """Runs the scheduler until a signal."""
    database_url = settings.database_url.get_secret_value()
    engine = create_engine(database_url)
    dashboard = RayDashboard(settings.ray_dashboard_url, settings.ray_token_file, timeout_s=settings.ray_timeout_s)
    try:
        async with dashboard:
            process = SchedulerProcess(create_sessions(engine), dashboard, settings)
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, process.stop)
            listening = asyncio.create_task(listen(database_url, [process.changed]))
            logger.info("scheduler started", extra={"ray": settings.ray_dashboard_url})
            try:
                await process.run()
            finally:
                listening.cancel()
    finally:
        await engine.dispose()
        logger.info("scheduler stopped")


def main() -> None:
    """Reads the settings from the environment (`SEDRAY_…`); an incomplete one ends here with its names."""
    configure_logging()
    asyncio.run(run(SchedulerSettings()))


if __name__ == "__main__":
    main()

"""Style, scripts and the chart library, served from the installed packages: no build step, no other host."""

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles

from api.web.page_routes import HERE

router = APIRouter(include_in_schema=False)
folder = StaticFiles(directory=HERE / "static")


@router.get("/static/plotly.min.js")
async def plotly_script() -> FileResponse:
    """The script that the plotly package carries; it changes only with the package."""
    script = Path(str(files("plotly") / "package_data" / "plotly.min.js"))
    return FileResponse(script, media_type="text/javascript", headers={"Cache-Control": "max-age=86400"})

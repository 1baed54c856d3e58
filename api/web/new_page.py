"""The pages on which experiments and studies are written: an editor, a form made from the schema, a dry run beside."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api.deps import CurrentUser, SessionDep, SettingsDep
from api.spec_templates import spec_templates
from api.specification import as_yaml, chosen
from api.study_spec_file import study_spec_yaml
from api.web.page_routes import PageRoute, templates
from service import access, experiments
from service.access import Action
from service.contract.spec import ExperimentSpec
from service.studies import spec_and_amendments, view

router = APIRouter(route_class=PageRoute, include_in_schema=False)
Source = Annotated[str, Query(alias="from", max_length=100)]


@router.get("/new")
async def new_experiment_page(
    request: Request, user: CurrentUser, session: SessionDep, settings: SettingsDep, source: Source = ""
) -> Response:
    """With `from` a copy of an experiment, else the first template."""
    text = ""
    if source:
        await access.require_experiment(session, user, source, Action.READ)
        spec = ExperimentSpec.model_validate((await experiments.get(session, source)).spec)
        text = f"# from {source}\n" + as_yaml(chosen(spec))
    return _page(request, user.name, settings, kind="experiment", source=source, text=text)


@router.get("/studies/new")
async def new_study_page(
    request: Request, user: CurrentUser, session: SessionDep, settings: SettingsDep, source: Source = ""
) -> Response:
    """With `from` a copy of a study as it stands, amendments applied."""
    text = ""
    if source:
        await access.require_study(session, user, source, Action.READ)
        spec, changes = await spec_and_amendments(session, (await view(session, source)).study)
        text = study_spec_yaml(source, spec, len(changes))
    return _page(request, user.name, settings, kind="study", source=source, text=text)


def _page(request: Request, user: str, settings: SettingsDep, *, kind: str, source: str, text: str) -> Response:
    offered = [one for one in spec_templates() if one.kind == kind]
    context = {
        "user": user,
        "ray_dashboard_url": settings.ray_dashboard_public_url,
        "kind": kind,
        "source": source,
        "text": text or offered[0].text,
        "spec_templates": offered,
    }
    return templates.TemplateResponse(request, "new.html", context)

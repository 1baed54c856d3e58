"""A project's webhooks, and the log of what they were sent."""

import json
from typing import Annotated

from fastapi import APIRouter, Path, Query

from api.access import ManagedProject, OverseenProject
from api.deps import CurrentUser, SecretDep, SessionDep, SettingsDep
from api.problems import problem_responses
from api.webhook_schemas import (
    DeliveryOut,
    DeliveryPage,
    DeliveryStatus,
    NewWebhook,
    WebhookChangeIn,
    WebhookOut,
    WebhookPage,
    WebhookWithSecret,
)
from service.storage.tables import Project
from service.storage.webhook_tables import Webhook, WebhookDelivery
from service.webhooks import deliveries, registry
from service.webhooks.registry import WebhookChange
from service.webhooks.signature import shown_secret

router = APIRouter(prefix="/projects/{project}/webhooks", tags=["webhooks"])
WebhookId = Annotated[str, Path(description="A webhook's id.", max_length=100)]
DeliveryId = Annotated[str, Path(description="A delivery's id.", max_length=100)]


@router.get("", summary="List the webhooks", responses=problem_responses(401, 403, 404, 422))
async def list_webhooks(project: OverseenProject, session: SessionDep) -> WebhookPage:
    """Without their secrets."""
    found = await registry.list_webhooks(session, project)
    return WebhookPage(items=[_to_webhook(project, webhook) for webhook in found])


@router.post(
    "",
    summary="Make a webhook",
    status_code=201,
    responses=problem_responses(401, 403, 404, 409, 413, 422),
)
async def create_webhook(
    project: ManagedProject,
    user: CurrentUser,
    session: SessionDep,
    settings: SettingsDep,
    secret: SecretDep,
    new: NewWebhook,
) -> WebhookWithSecret:
    """The secret that its messages are signed with is in this answer and nowhere else."""
    webhook = await registry.create(
        session,
        user,
        project,
        name=new.name,
        url=new.url,
        events=new.events,
        allowed_hosts=settings.webhook_allowed_hosts,
    )
    return _with_secret(project, webhook, secret)


@router.get("/{webhook_id}", summary="Show a webhook", responses=problem_responses(401, 403, 404, 422))
async def show_webhook(project: OverseenProject, session: SessionDep, webhook_id: WebhookId) -> WebhookOut:
    """Without its secret."""
    return _to_webhook(project, await registry.get(session, project, webhook_id))


@router.patch(
    "/{webhook_id}",
    summary="Change, stop or resume a webhook",
    responses=problem_responses(401, 403, 404, 409, 413, 422),
)
async def change_webhook(
    project: ManagedProject,
    user: CurrentUser,
    session: SessionDep,
    settings: SettingsDep,
    webhook_id: WebhookId,
    change: WebhookChangeIn,
) -> WebhookOut:
    """While it is not active, no message is kept for it."""
    wanted = WebhookChange(**dict(change))
    allowed = settings.webhook_allowed_hosts
    return _to_webhook(
        project, await registry.change(session, user, project, webhook_id, wanted, allowed_hosts=allowed)
    )


@router.delete("/{webhook_id}", summary="Remove a webhook", responses=problem_responses(401, 403, 404, 422))
async def remove_webhook(
    project: ManagedProject, user: CurrentUser, session: SessionDep, webhook_id: WebhookId
) -> WebhookOut:
    """With all its deliveries. Answers what it was."""
    return _to_webhook(project, await registry.remove(session, user, project, webhook_id))


@router.post(
    "/{webhook_id}/rotate-secret",
    summary="Give a webhook another secret",
    responses=problem_responses(401, 403, 404, 422),
)
async def rotate_webhook_secret(
    project: ManagedProject, user: CurrentUser, session: SessionDep, secret: SecretDep, webhook_id: WebhookId
) -> WebhookWithSecret:
    """For a day messages carry both signatures, so that the receiver can change over."""
    return _with_secret(project, await registry.rotate_secret(session, user, project, webhook_id), secret)


@router.post(
    "/{webhook_id}/test",
    summary="Send a test message",
    status_code=202,
    responses=problem_responses(401, 403, 404, 422),
)
async def send_test_message(
    project: ManagedProject, user: CurrentUser, session: SessionDep, webhook_id: WebhookId
) -> DeliveryOut:
    """Of type `test`; look at the deliveries for what became of it."""
    return _to_delivery(await registry.send_test(session, user, project, webhook_id))


@router.get(
    "/{webhook_id}/deliveries",
    summary="Read what was sent, newest first",
    responses=problem_responses(401, 403, 404, 422),
)
async def list_deliveries(
    project: OverseenProject,
    session: SessionDep,
    webhook_id: WebhookId,
    status: DeliveryStatus | None = None,
    before: Annotated[str | None, Query(max_length=100, description="`next_before` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> DeliveryPage:
    """Kept for 30 days after their end. `next_before` is null on the last page."""
    webhook = await registry.get(session, project, webhook_id)
    rows = await deliveries.page_before(session, webhook, status=status, before=before, limit=limit + 1)
    items = [_to_delivery(row) for row in rows[:limit]]
    return DeliveryPage(items=items, next_before=items[-1].id if len(rows) > limit else None)


@router.post(
    "/{webhook_id}/deliveries/{delivery_id}/redeliver",
    summary="Send a message again",
    status_code=202,
    responses=problem_responses(401, 403, 404, 409, 422),
)
async def redeliver_message(
    project: ManagedProject, user: CurrentUser, session: SessionDep, webhook_id: WebhookId, delivery_id: DeliveryId
) -> DeliveryOut:
    """With the same id and body, and all its tries back."""
    webhook = await registry.get(session, project, webhook_id)
    return _to_delivery(await deliveries.redeliver(session, user, project, webhook, delivery_id))


def _to_webhook(project: Project, webhook: Webhook) -> WebhookOut:
    same = {name: getattr(webhook, name) for name in WebhookOut.model_fields if name != "project"}
    return WebhookOut.model_validate({**same, "project": project.name})


def _with_secret(project: Project, webhook: Webhook, key: bytes) -> WebhookWithSecret:
    return WebhookWithSecret(**dict(_to_webhook(project, webhook)), secret=shown_secret(key, webhook))


def _to_delivery(row: WebhookDelivery) -> DeliveryOut:
    same = {name: getattr(row, name) for name in DeliveryOut.model_fields if name not in ("body", "next_attempt_at")}
    following = row.next_attempt_at if row.status == "pending" else None
    return DeliveryOut.model_validate({**same, "body": json.loads(row.body), "next_attempt_at": following})

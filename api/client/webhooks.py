"""What the client says about webhooks: `client.webhooks.create("team", "chat", "https://…")`."""

from collections.abc import Sequence

from api.client.calls import AnyTransport, Part, call
from api.client.requests import Request, get, given, path, send
from api.webhook_schemas import DeliveryOut, DeliveryPage, WebhookOut, WebhookPage, WebhookWithSecret


class Webhooks(Part[AnyTransport]):
    """A project's webhooks and what they were sent."""

    @call
    def list(self, project: str) -> Request[WebhookPage]:
        """By name, without secrets."""
        return get(WebhookPage, path("projects", project, "webhooks"))

    @call
    def show(self, project: str, webhook_id: str) -> Request[WebhookOut]:
        """One webhook, without its secret."""
        return get(WebhookOut, path("projects", project, "webhooks", webhook_id))

    @call
    def create(self, project: str, name: str, url: str, *, events: Sequence[str] = ()) -> Request[WebhookWithSecret]:
        """A new webhook; its `secret` is told this once. No `events`: all of them."""
        body = {"name": name, "url": url, "events": list(events)}
        return send(WebhookWithSecret, "POST", path("projects", project, "webhooks"), body)

    @call
    def change(
        self,
        project: str,
        webhook_id: str,
        *,
        name: str | None = None,
        url: str | None = None,
        events: Sequence[str] | None = None,
        is_active: bool | None = None,
    ) -> Request[WebhookOut]:
        """What is left out stays."""
        listed = None if events is None else tuple(events)
        body = given(name=name, url=url, events=listed, is_active=is_active)
        return send(WebhookOut, "PATCH", path("projects", project, "webhooks", webhook_id), body)

    @call
    def remove(self, project: str, webhook_id: str) -> Request[WebhookOut]:
        """With its deliveries; answers what it was."""
        return send(WebhookOut, "DELETE", path("projects", project, "webhooks", webhook_id))

    @call
    def rotate_secret(self, project: str, webhook_id: str) -> Request[WebhookWithSecret]:
        """Another secret; for a day messages carry both signatures."""
        where = path("projects", project, "webhooks", webhook_id, "rotate-secret")
        return send(WebhookWithSecret, "POST", where)

    @call
    def test(self, project: str, webhook_id: str) -> Request[DeliveryOut]:
        """Sends a message of type `test`."""
        where = path("projects", project, "webhooks", webhook_id, "test")
        return send(DeliveryOut, "POST", where)

    @call
    def deliveries(
        self, project: str, webhook_id: str, *, status: str | None = None, before: str | None = None, limit: int = 50
    ) -> Request[DeliveryPage]:
        """What was sent, newest first."""
        query = given(status=status, before=before, limit=limit)
        return get(DeliveryPage, path("projects", project, "webhooks", webhook_id, "deliveries"), query)

    @call
    def redeliver(self, project: str, webhook_id: str, delivery_id: str) -> Request[DeliveryOut]:
        """Sends a message again, with the same id."""
        where = path("projects", project, "webhooks", webhook_id, "deliveries", delivery_id, "redeliver")
        return send(DeliveryOut, "POST", where)

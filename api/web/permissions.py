"""Which buttons a page shows: those whose orders the API would take from this reader. The API decides all the same."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from api.schemas import ExperimentSummary
from service.access import Action, Principal
from service.contract.access import ProjectRole, TokenScope
from service.errors import Forbidden
from service.tenancy import projects


@dataclass(frozen=True, slots=True, kw_only=True)
class Permissions:
    """Of one reader."""

    principal: Principal
    roles: dict[str, ProjectRole]
    """By name of a visible project."""

    def may_control(self, item: ExperimentSummary) -> bool:
        """Cancel, hold, release, move and retry it."""
        role = self.roles.get(item.project)
        owner = self.principal.id if item.user == self.principal.name else None
        return role is not None and self._may(Action.CONTROL, role, item.project, owner)

    @property
    def projects(self) -> list[str]:
        """Names of all visible ones."""
        return list(self.roles)

    @property
    def managed(self) -> list[str]:
        """Projects whose queue the reader may pause."""
        return [name for name, role in self.roles.items() if self._may(Action.MANAGE, role, name)]

    @property
    def governs(self) -> bool:
        """Whether the queue as a whole is the reader's to pause."""
        return self.principal.governs and self.principal.scope.covers(TokenScope.ADMIN)

    def may_control_any(self, items: Sequence[ExperimentSummary]) -> bool:
        """Whether there is anything to select."""
        return any(self.may_control(item) for item in items)

    def _may(self, action: Action, role: ProjectRole, project: str, owner_id: str | None = None) -> bool:
        try:
            self.principal.require(action, role=role, project=project, owner_id=owner_id)
        except Forbidden:
            return False
        return True


async def permissions_of(session: AsyncSession, principal: Principal) -> Permissions:
    """Archived projects are among them: what waits there still runs."""
    visible = await projects.list_visible(session, principal, archived=True)
    return Permissions(principal=principal, roles={view.project.name: view.role for view in visible})

"""Who calls, and the rule of every action. Pure: no table is read here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from sqlalchemy import ColumnElement, true
from sqlalchemy.orm import InstrumentedAttribute

from service.contract.access import ProjectRole, TokenScope, UserKind
from service.errors import Forbidden
from service.storage.tables import User


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What an action needs: a role in the project and a scope of the token."""

    role: ProjectRole
    scope: TokenScope
    own_role: ProjectRole | None = None
    """Enough for what one has submitted oneself."""
    verb: str = ""
    """For the sentence that refuses."""


class Action(Enum):
    """Everything that is done inside a project."""

    READ = Rule(role=ProjectRole.VIEWER, scope=TokenScope.READ, verb="read this")
    SUBMIT = Rule(role=ProjectRole.MEMBER, scope=TokenScope.WRITE, verb="submit experiments")
    CONTROL = Rule(
        role=ProjectRole.MAINTAINER,
        own_role=ProjectRole.MEMBER,
        scope=TokenScope.WRITE,
        verb="change somebody else's experiments",
    )
    OVERSEE = Rule(role=ProjectRole.MAINTAINER, scope=TokenScope.READ, verb="see this")
    """Read what is a maintainer's business: audit log, webhooks, deliveries."""
    MANAGE = Rule(role=ProjectRole.MAINTAINER, scope=TokenScope.ADMIN, verb="manage the project")


@dataclass(frozen=True, slots=True, kw_only=True)
class Visible:
    """Which projects somebody sees."""

    project_ids: frozenset[str] | None
    """None: every one."""

    def includes(self, project_id: str) -> bool:
        """Whether they see this one."""
        return self.project_ids is None or project_id in self.project_ids

    def where(self, column: InstrumentedAttribute[str]) -> ColumnElement[bool]:
        """The condition that narrows a statement to them; `column` holds a project's id."""
        return true() if self.project_ids is None else column.in_(sorted(self.project_ids))


EVERYTHING = Visible(project_ids=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A user as one token shows them."""

    id: str
    """The user's."""
    name: str
    kind: UserKind
    is_admin: bool
    token_id: str
    token_name: str
    scope: TokenScope
    bound_project_id: str | None
    """The only project that the token opens."""
    roles: Mapping[str, ProjectRole] = field(default_factory=dict)
    """By project id."""
    request_id: str | None = None

    @property
    def governs(self) -> bool:
        """Whether the whole service is open, as far as the scope goes: an admin with a token bound to no project."""
        return self.is_admin and self.bound_project_id is None

    @property
    def visible(self) -> Visible:
        """The projects that lists are narrowed to."""
        if self.governs:
            return EVERYTHING
        own = self.roles if self.bound_project_id is None else [self.bound_project_id]
        return Visible(project_ids=frozenset(one for one in own if self.role_in(one)))

    def role_in(self, project_id: str) -> ProjectRole | None:
        """The role in a project; None where one may not even know of it."""
        if self.bound_project_id not in (None, project_id):
            return None
        return ProjectRole.MAINTAINER if self.is_admin else self.roles.get(project_id)

    def require_scope(self, needed: TokenScope) -> None:
        """Raises Forbidden if the token is for less."""
        if not self.scope.covers(needed):
            raise Forbidden(
                f"token {self.token_name!r} has scope {self.scope.value!r}, this needs {needed.value!r}; "
                "use another token",
                required_scope=needed.value,
            )

    def require(self, action: Action, *, role: ProjectRole, project: str, owner_id: str | None = None) -> None:
        """Raises Forbidden unless `role` in the project of this name allows the action."""
        rule = action.value
        is_own = owner_id is not None and owner_id == self.id
        needed = rule.own_role if is_own and rule.own_role else rule.role
        if not role.covers(needed):
            verb = "change experiments" if is_own else rule.verb
            raise Forbidden(
                f"{self.name} is {role.value} of project {project!r}, but only a {needed.value} may {verb}; "
                "ask one of the project's maintainers",
                required_role=needed.value,
            )
        self.require_scope(rule.scope)


Actor = Principal | User
"""By whom something is done: a caller, or a user on whose behalf the service itself acts."""

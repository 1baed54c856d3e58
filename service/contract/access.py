"""Who may do what, in the words of the wire: roles in a project, scopes of tokens, kinds of users."""

from enum import StrEnum


class ProjectRole(StrEnum):
    """What somebody may do in one project; each role includes those before it."""

    VIEWER = "viewer"
    """Reads experiments and all that belongs to them."""
    MEMBER = "member"
    """Submits experiments, and cancels or retries their own."""
    MAINTAINER = "maintainer"
    """Cancels and retries anybody's; looks after members, service accounts, webhooks, and reads the audit log."""

    def covers(self, needed: "ProjectRole") -> bool:
        """Whether this role may do what `needed` may do."""
        order = list(ProjectRole)
        return order.index(self) >= order.index(needed)


class TokenScope(StrEnum):
    """What a token may be used for, at most; each scope includes those before it. Its user's role limits it too."""

    READ = "read"
    WRITE = "write"
    """Submit, cancel and retry as well."""
    ADMIN = "admin"
    """Manage projects, members, users, tokens and webhooks as well."""

    def covers(self, needed: "TokenScope") -> bool:
        """Whether a token of this scope may do what `needed` may do."""
        order = list(TokenScope)
        return order.index(self) >= order.index(needed)


class UserKind(StrEnum):
    """Whether somebody is a person."""

    PERSON = "person"
    SERVICE = "service"
    """A service account: for CI and other programs, looked after by the maintainers of its project."""


PROJECT_NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"
USER_NAME = r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}$"
"""Also an e-mail address; safe in a URL's path."""

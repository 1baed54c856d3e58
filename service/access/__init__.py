"""What somebody may do. A route names an `Action`; here it is decided whether the caller may.

token ──> Principal (user, roles, scope, binding) ──Action──> allowed
                                                        ├──> NotFound   it lies in a project that one may not see
                                                        └──> Forbidden  one sees it, but the role or scope is short
"""

from service.access.checks import (
    archived_project,
    no_experiment,
    no_study,
    project_named,
    require_admin,
    require_experiment,
    require_project,
    require_study,
    require_submission,
)
from service.access.principal import EVERYTHING, Action, Actor, Principal, Visible

__all__ = [
    "EVERYTHING",
    "Action",
    "Actor",
    "Principal",
    "Visible",
    "archived_project",
    "no_experiment",
    "no_study",
    "project_named",
    "require_admin",
    "require_experiment",
    "require_project",
    "require_study",
    "require_submission",
]

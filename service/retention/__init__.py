"""How long what ended experiments leave behind is kept: by project, else by the service's settings.

    kind           what goes                                    what stays
    logs           lines in the database and in the storage     events, death certificates
    rollouts       completions kept for people to read          metrics, files of whole steps
    token_views    held-out samples token by token              metrics
    checkpoints    the folder of training checkpoints           exported models

Nothing of an experiment goes before it has ended and Ray has let go of it. Metrics and results are kept for ever.
"""

from service.retention.policies import KINDS, Kind, Policy, policies_of, set_policy
from service.retention.removing import Due, due_now, remove_due

__all__ = ["KINDS", "Due", "Kind", "Policy", "due_now", "policies_of", "remove_due", "set_policy"]

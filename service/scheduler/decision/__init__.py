"""Who starts, who waits and why, who gives way: one pure decision, made anew in every pass.

    resources    amounts, and what an experiment asks for
    facts        what the decision is made from
    outcome      what was decided
    usage        decayed use, entry penalty, and the factor that people read
    eligibility  what keeps an experiment from being considered at all
    order        class, then fair share over projects and their users, then age
    levels, room which nodes have what free, now and at a reservation's time
    quotas       what a project or a user may hold
    backfill     a reservation for whoever stands first and does not fit
    preemption   who must give way to him
    growth       idle capacity for rollout engines
    decide       all of it, in this order
    forecast     when those who wait will start, if everybody takes the time that he asked for

No clock, no table and no network: times are seconds since the epoch and come in with the facts.
"""

from service.scheduler.decision.decide import decide
from service.scheduler.decision.facts import Situation
from service.scheduler.decision.outcome import Decisions

__all__ = ["Decisions", "Situation", "decide"]

"""Webhooks: a project's status changes, told to its own addresses over HTTP.

    transition ──same transaction──> outbox row ──claim──> resolve, check, connect, sign, send ──> delivered
                                        ^                                    │
                                        └──── back-off with jitter <─────────┴──> dead: refused, or the last try failed

A message is sent at least once; its id is the same each time. Messages may overtake each other; `sequence` rises within
an experiment.
"""

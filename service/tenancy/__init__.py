"""Projects, users, members, tokens: who exists and who may do what. Every change is noted in the audit log."""

"""Per-token objectives of both stages, in plain torch: the reference that any faster form is held to."""

"""The one way in which a weight sync fails."""


class WeightSyncFailed(Exception):
    """A rollout engine does not hold the weights that it was told to take."""

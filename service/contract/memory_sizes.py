"""Sizes that the workers allocate by and that the memory plan of a submission reckons with."""

LOSS_CHUNK_BYTES = 24 * 2**20
"""One float32 buffer of a chunk of logits in the fused loss: large enough for full speed of the matrix products, small
beside the output layer's weight."""

MICROBATCH_TOKENS_ON_CPU = 2048
"""One pass of the trainer without GPU, where nothing else is asked for: the values of more tokens leave the caches
between one operation and the next, which takes up to twice the time."""

KV_CACHE_BYTES_ON_CPU = 1 << 30
"""The rollout engine's cache of keys and values on a machine without GPU, taken at its start. What doesn't fit waits;
a single request of full length must fit."""
GPU_MEMORY_UTILIZATION = 0.9
"""Share of a GPU's memory that the rollout engine takes; a share of a GPU leaves the others their part of it."""
MAX_NUM_SEQUENCES = 512
"""Requests in one forward pass of the rollout engine; more wait their turn."""
MAX_NUM_BATCHED_TOKENS = 8192
"""Tokens of one forward pass of the rollout engine: the prompts of a whole round of short requests."""

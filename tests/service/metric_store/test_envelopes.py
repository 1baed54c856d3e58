"""Envelopes against the plain definition."""

from math import isclose, isfinite

from hypothesis import given
from hypothesis import strategies as st

from service.metric_store.envelopes import Bucket, Run, Summary, build_envelope, summarise

VALUES = st.lists(st.floats(min_value=-1e6, max_value=1e6) | st.sampled_from([float("nan"), float("inf")]), min_size=1)


def expected_bucket(steps: list[int], values: list[float]) -> Bucket:
    finite = [value for value in values if isfinite(value)]
    return Bucket(
        first_step=steps[0],
        last_step=steps[-1],
        num_points=len(steps),
        num_finite=len(finite),
        min=min(finite) if finite else None,
        max=max(finite) if finite else None,
        mean=sum(finite) / len(finite) if finite else None,
    )


def same(left: Bucket, right: Bucket) -> bool:
    means = (left.mean, right.mean)
    if None in means:
        return left == right
    assert left.mean is not None and right.mean is not None
    exact = [(b.first_step, b.last_step, b.num_points, b.num_finite, b.min, b.max) for b in (left, right)]
    return exact[0] == exact[1] and isclose(left.mean, right.mean, rel_tol=1e-9, abs_tol=1e-9)


@given(values=VALUES, max_buckets=st.integers(1, 20))
def test_buckets_of_points_are_their_min_max_and_mean(values: list[float], max_buckets: int) -> None:
    steps = [3 * place for place in range(len(values))]
    buckets = build_envelope([Run(steps=steps, values=values)], max_buckets)
    assert len(buckets) == min(max_buckets, len(values))
    start = 0
    for bucket in buckets:
        end = start + bucket.num_points
        assert same(bucket, expected_bucket(steps[start:end], values[start:end]))
        start = end
    assert start == len(values)


@given(sizes=st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1), max_buckets=st.integers(1, 20))
def test_summaries_and_points_mix_without_loss(sizes: list[tuple[int, bool]], max_buckets: int) -> None:
    pieces: list[Summary | Run] = []
    first = 0
    for size, is_summary in sizes:
        steps = list(range(first, first + size))
        values = [float(step % 7) for step in steps]
        pieces.append(summarise(steps, values) if is_summary else Run(steps=steps, values=values))
        first += size
    buckets = build_envelope(pieces, max_buckets)
    assert len(buckets) <= max_buckets
    assert [bucket.first_step for bucket in buckets][1:] == [bucket.last_step + 1 for bucket in buckets][:-1]
    for bucket in buckets:
        steps = list(range(bucket.first_step, bucket.last_step + 1))
        assert same(bucket, expected_bucket(steps, [float(step % 7) for step in steps]))
    assert buckets[-1].last_step == first - 1


def test_no_spike_is_lost() -> None:
    values = [0.0] * 100_000
    values[77_777] = 9.0
    buckets = build_envelope([Run(steps=range(100_000), values=values)], 100)
    assert [bucket.max for bucket in buckets if bucket.max] == [9.0]

"""The one number of a list's row."""

from service.contract.headline import headline_of


def test_the_latest_stage_speaks_with_its_smallest_k() -> None:
    after_rl = {"eval/test/pass@8": 0.75, "eval/test/pass@1": 0.5, "eval/test/mean_length": 90.0}
    found = headline_of({"sft": {"sft/loss": 1.5}, "evaluate_after_rl": after_rl})

    assert found is not None
    assert (found.stage, found.name, found.value, found.unit) == (
        "evaluate_after_rl",
        "eval/test/pass@1",
        0.5,
        "fraction",
    )


def test_held_out_samples_say_more_than_the_loss_and_nothing_says_nothing() -> None:
    found = headline_of({"sft": {"sft/loss": 1.5, "sft/eval/nll": 2.5}})

    assert found is not None and (found.name, found.unit) == ("sft/eval/nll", "nats/token")
    assert headline_of({"evaluate_base": {"eval/test/pass@1": 0.5}, "rl": {}}) is None

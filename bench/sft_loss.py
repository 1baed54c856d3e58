"""Time and memory of the output layer with its loss, forward and backward: fused sweeps against all logits at once.

The forms: the fused sweep of SED and that of cross entropy, linear -> logits -> `F.cross_entropy`, and SED as its
authors write it (softmax of all logits, penalty by indexing and top-k). float32 on the CPU.

Times: medians over interleaved rounds after a first one that is not counted. Memory: the highest resident size above
the size with all inputs in place, each form in a process of its own (`python -m bench.sft_loss FORM ...`); Linux only.
"""

import argparse
import logging
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from bench.rows import Row
from workers.objectives.base import RowObjective
from workers.objectives.build import row_loss
from workers.objectives.cross_entropy import CrossEntropy
from workers.objectives.fused_linear import fused_loss
from workers.objectives.output_head import OutputHead
from workers.objectives.sed_sft import SelectivePenalty

logger = logging.getLogger(__name__)

LAMBDA, TOP_K, TAU = 1.0, 2, 0.5
MEMORY_TIMEOUT_S = 1800
OURS = "sed_fused"
TIME_ROWS = {
    "sed_fused_vs_ce_fused_time": "ce_fused",
    "sed_fused_vs_ce_logits_time": "ce_logits",
    "sed_fused_vs_authors_time": "sed_authors",
}
"""Rows by name, with the form that SED's fused sweep is compared to."""
MEMORY_ROWS = {
    "sed_fused_vs_ce_logits_memory": "ce_logits",
    "sed_fused_vs_authors_memory": "sed_authors",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Of one output layer and its tokens."""

    tokens: int
    hidden: int
    vocabulary: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What every form computes on."""

    hidden_NH: Tensor
    weight_VH: Tensor
    labels_N: Tensor


def time_rows(names: Iterable[str], sizes: Sizes, *, rounds: int) -> dict[str, Row]:
    """The named ones of `TIME_ROWS`, in seconds, with as many threads as torch has now."""
    peers = {name: TIME_ROWS[name] for name in names}
    seconds = measure_times([OURS, *peers.values()], sizes, rounds)
    return {name: Row(ours=seconds[OURS], peer=seconds[peer], unit="s") for name, peer in peers.items()}


def memory_rows(names: Iterable[str], sizes: Sizes, *, threads: int) -> dict[str, Row]:
    """The named ones of `MEMORY_ROWS`."""
    peers = {name: MEMORY_ROWS[name] for name in names}
    peaks = {form: measure_memory(form, sizes, threads) for form in [OURS, *peers.values()]}
    return {name: Row(ours=peaks[OURS], peer=peaks[peer], unit="MiB") for name, peer in peers.items()}


def make_inputs(sizes: Sizes) -> Inputs:
    """Random hidden states and weights whose logits have a standard deviation of 3."""
    generator = torch.Generator().manual_seed(0)
    hidden_NH = torch.randn(sizes.tokens, sizes.hidden, generator=generator)
    weight_VH = torch.randn(sizes.vocabulary, sizes.hidden, generator=generator).mul_(3.0 / sizes.hidden**0.5)
    return Inputs(
        hidden_NH=hidden_NH.requires_grad_(),
        weight_VH=weight_VH.requires_grad_(),
        labels_N=torch.randint(0, sizes.vocabulary, (sizes.tokens,), generator=generator),
    )


def fused(objective: RowObjective, inputs: Inputs) -> Tensor:
    """The mean loss by the fused sweep."""
    head = OutputHead(weight_VH=inputs.weight_VH)
    output = fused_loss(inputs.hidden_NH, head, inputs.labels_N, row_loss(objective), needs=objective.needs)
    return output.loss_sum / len(inputs.labels_N)


def ce_logits(inputs: Inputs) -> Tensor:
    """Cross entropy over all logits at once."""
    return functional.cross_entropy(inputs.hidden_NH @ inputs.weight_VH.T, inputs.labels_N)


def sed_authors(inputs: Inputs) -> Tensor:
    """SED with all logits, their scaled copy and their softmax in memory, and the penalty as p (p - 1) + 1/4."""
    logits_NV = (inputs.hidden_NH @ inputs.weight_VH.T) * 1.0
    nll_N = functional.cross_entropy(logits_NV, inputs.labels_N, reduction="none")
    probs_NV = functional.softmax(logits_NV, dim=-1)
    prob_N = probs_NV[torch.arange(len(inputs.labels_N)), inputs.labels_N]
    penalised_N = (probs_NV.topk(TOP_K, dim=-1).values.sum(-1) < TAU).float()
    return (nll_N + LAMBDA * penalised_N * (prob_N * (prob_N - 1.0) + 0.25)).mean()


FORMS: dict[str, Callable[[Inputs], Tensor]] = {
    OURS: lambda inputs: fused(SelectivePenalty(lambda_=LAMBDA, top_k=TOP_K, tau=TAU), inputs),
    "ce_fused": lambda inputs: fused(CrossEntropy(), inputs),
    "ce_logits": ce_logits,
    "sed_authors": sed_authors,
}


def step(form: str, inputs: Inputs) -> None:
    """One forward and backward pass, as in the first micro-batch of an optimizer step."""
    inputs.hidden_NH.grad = inputs.weight_VH.grad = None
    torch.autograd.backward(FORMS[form](inputs))


def measure_times(forms: list[str], sizes: Sizes, rounds: int) -> dict[str, float]:
    """Median seconds of each form."""
    inputs = make_inputs(sizes)
    seconds: dict[str, list[float]] = {form: [] for form in forms}
    for number in range(rounds + 1):
        for form in forms:
            start = time.perf_counter()
            step(form, inputs)
            elapsed = time.perf_counter() - start
            if number:
                seconds[form].append(elapsed)
        logger.info("loss: round %d of %d", number, rounds)
    return {form: statistics.median(values) for form, values in seconds.items()}


def measure_memory(form: str, sizes: Sizes, threads: int) -> float:
    """Peak MiB of one form over its inputs, measured in a new process."""
    command = [sys.executable, "-m", "bench.sft_loss", form, "--threads", str(threads)]
    for name in ("tokens", "hidden", "vocabulary"):
        command += [f"--{name}", str(getattr(sizes, name))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=MEMORY_TIMEOUT_S)
    return float(done.stdout)


def peak_of(form: str, sizes: Sizes) -> float:
    """Peak MiB of one form in this process, which should have done nothing else."""
    # A small pass first: thread pools and the libraries' own buffers are no part of the form.
    step(form, make_inputs(Sizes(tokens=64, hidden=sizes.hidden, vocabulary=256)))
    inputs = make_inputs(sizes)
    base = _status_mib("VmRSS")
    # Sets the high-water mark back to the present size.
    Path("/proc/self/clear_refs").write_text("5")
    step(form, inputs)
    return _status_mib("VmHWM") - base


def _status_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def main() -> None:
    """Prints the peak of one form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("form", choices=FORMS)
    for name in ("tokens", "hidden", "vocabulary", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sizes = Sizes(tokens=arguments.tokens, hidden=arguments.hidden, vocabulary=arguments.vocabulary)
    sys.stdout.write(f"{peak_of(arguments.form, sizes)}\n")


if __name__ == "__main__":
    main()

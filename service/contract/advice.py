"""What a person can do about an end, in a few sentences. Pure."""

from collections.abc import Sequence

from service.contract.failures import FailureClass
from service.contract.status import EndReason

_OF_EXIT_CODE = {
    2: "The driver refused to start (exit code 2): its settings, its token or its version do not fit the service; "
    "install the same version of sedray on the cluster.",
    3: "The driver left because the service had ended the attempt before (exit code 3).",
    4: "The driver could not reach the service for minutes (exit code 4): check SEDRAY_SERVICE_URL and the network.",
}
_OF_REASON = {
    EndReason.NON_FINITE: "Lower the learning rate, clip gradients, or look at the samples of the last steps; retry.",
    EndReason.GATE_CLOSED: "The model earns too little, or everything: easier or harder prompts, or a longer SFT.",
    EndReason.SENTINEL: "Look at the metric around the step that is named; then change the specification or its "
    "sentinels.",
    EndReason.INCOMPLETE: "The driver ended early without an error; its log says where. Report this as a fault of "
    "sedray.",
    EndReason.MAX_RUNTIME_EXCEEDED: "Raise max_runtime_s, plan fewer steps, or give the trainer more; a retry goes on "
    "from the last checkpoint.",
    EndReason.START_TIMEOUT: "Look at the Ray job's own log: is the workers' environment whole, can the node reach the "
    "service?",
    EndReason.SUBMIT_FAILED: "Ray goes on refusing jobs: look at the logs of its dashboard and of the head node.",
    EndReason.NO_PROGRESS: "Steps stood still: raise no_progress_timeout_s if a step may take so long, else look at "
    "the stacks.",
    EndReason.RAY_JOB_LOST: "Ray was restarted, or somebody deleted the job. Nothing to do: the next attempt goes on.",
}
_OF_CLASS = {
    FailureClass.USER_CODE: "Read the traceback: the error is in the experiment's own work, and would come again.",
    FailureClass.CONFIG: "Change the specification as the message says, and submit it anew.",
    FailureClass.OUT_OF_MEMORY: "The node's memory ran out: fewer processes on it, a smaller batch, or a node with "
    "more; see the plan's memory table (sedray submit --dry-run).",
    FailureClass.INFRA_NODE: "A process or node died under the run. Nothing to do while retries are left; else look at "
    "the node.",
    FailureClass.INFRA_ENGINE: "The rollout engine failed: its lines in the log say why. A retry helps if that was the "
    "machine.",
    FailureClass.LOST: "Nobody knows how it ended. Nothing to do while retries are left; else look at Ray and its "
    "nodes.",
    FailureClass.PREEMPTED: "It made room for another and goes on by itself from its checkpoint.",
    FailureClass.CAPACITY: "Ray has less to give than it says, perhaps in pieces: look for leftovers of earlier runs.",
    FailureClass.SENTINEL: "Look at the run's own metrics.",
    FailureClass.TIMEOUT: "Give it more time, or less to do.",
}
_GPU_MEMORY = (
    "The GPU's memory ran out: shorten max_length or max_completion_length, take smaller micro batches, set "
    "model.gradient_checkpointing, or use more ranks."
)
_KILLED = "The driver was killed (SIGKILL) and left no word: look for the kernel's memory killer (dmesg) on its node."
_STACKS = "The stacks show where each process stood still: look for the one that waits for nobody."
SIGKILL_CODES = (-9, 137)


def what_to_do(
    reason: EndReason,
    failure: FailureClass | None,
    *,
    exit_code: int | None,
    out_of_memory: Sequence[str],
    has_stacks: bool,
) -> list[str]:
    """Advice, the most useful first; `out_of_memory` names who says that memory ran out."""
    if failure is None:
        return []
    advice = [_OF_EXIT_CODE[exit_code]] if exit_code in _OF_EXIT_CODE else []
    if failure is FailureClass.OUT_OF_MEMORY:
        advice.append(_GPU_MEMORY if "gpu" in out_of_memory else _OF_CLASS[failure])
    else:
        advice.append(_OF_REASON.get(reason) or _OF_CLASS[failure])
        if out_of_memory:
            advice.append(f"Memory ran out as well ({', '.join(out_of_memory)}): look there first.")
    if exit_code in SIGKILL_CODES and not out_of_memory:
        advice.append(_KILLED)
    return [*advice, _STACKS] if has_stacks else advice

"""What a report says of its costs and of where it comes from, as Markdown."""

from collections.abc import Iterator

from service.contract.study_report import StudyReport
from service.study_report.rendering.markdown_table import escape, table
from service.study_report.rendering.text import hours, number, share


def cost_lines(report: StudyReport) -> Iterator[str]:
    """Device-hours by phase, tokens, and what was wasted."""
    yield "## Cost"
    yield ""
    yield "Device-hours of each arm's results by phase, every stage once; held: by the arm's own runs."
    yield ""
    phases = list(dict.fromkeys(phase.phase for cost in report.costs for phase in cost.phases))
    kinds = ["GPU", "CPU"] if any(cost.held_gpu_s for cost in report.costs) else ["CPU"]
    head = ["arm", "runs", *(f"{phase} {kind}-h" for kind in kinds for phase in phases)]
    head += [*(f"held {kind}-h" for kind in kinds), "wasted", "SFT tokens", "RL tokens", "generated"]
    rows = []
    for cost in report.costs:
        seconds = {(phase.phase, "GPU"): phase.gpu_s for phase in cost.phases}
        seconds |= {(phase.phase, "CPU"): phase.cpu_s for phase in cost.phases}
        held = {"GPU": cost.held_gpu_s, "CPU": cost.held_cpu_s}
        generated = cost.rl_tokens_generated + cost.evaluation_tokens_generated
        rows.append(
            [
                cost.arm,
                str(cost.num_runs),
                *(hours(seconds.get((phase, kind), 0.0)) for kind in kinds for phase in phases),
                *(hours(held[kind]) for kind in kinds),
                share(cost.wasted_share),
                *(number(tokens) for tokens in (cost.sft_tokens_trained, cost.rl_tokens_trained, generated)),
            ]
        )
    yield from table(head, rows)


def provenance_lines(report: StudyReport) -> Iterator[str]:
    """Versions, digests, amendments, lost runs, and how to run it again."""
    found = report.provenance
    yield "## Provenance"
    yield ""
    yield from table(
        ["what", "value", "runs"],
        [
            ["sedray (service)", found.service_version, ""],
            ["dependencies (SHA-256 of the lock file)", found.lock_sha256 or "no lock file beside the service", ""],
            ["specification as submitted (SHA-256)", found.spec_sha256, ""],
            *([one.what, one.value, str(one.num_runs)] for one in found.versions),
        ],
    )
    if found.amendments:
        yield "Changed after submission:"
        yield ""
        yield from (
            f"- {one.at:%Y-%m-%d %H:%M} by {one.by}: {one.what}. {escape(one.reason)}" for one in found.amendments
        )
        yield ""
    if found.lost_runs:
        yield "Runs that do not count:"
        yield ""
        yield from (
            f"- {one.experiment_id} ({one.arm}, seeds {one.sft_seed}/{one.rl_seed}) {one.why}: {escape(one.reason)}"
            for one in found.lost_runs
        )
        yield ""
    yield "To run it again:"
    yield ""
    yield "```"
    yield from found.reproduce
    yield "```"

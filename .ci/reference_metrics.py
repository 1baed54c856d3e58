"""The page of the metrics, from their registry."""

from reference_cells import cell, code

from service.contract.metric_names import METRICS

_STAGES = {"sft": "SFT", "rl": "RL", "evaluate": "Evaluation", "any": "All stages"}
_BETTER = {"up": "higher", "down": "lower", "neither": "–"}
_INTRODUCTION = """# Metrics

Every metric that a run may write. `{set}` stands for the evaluation's name, `{k}` for a number of samples, `{n}` for a
number of words, `{part}` for a part of a combined reward. `sedray metrics ID` lists those of a run.
"""


def metrics_reference() -> str:
    """A table for each stage."""
    lines = [_INTRODUCTION]
    for stage, title in _STAGES.items():
        lines += [f"## {title}", "", "| metric | unit | better | meaning |", "|---|---|---|---|"]
        lines += [
            f"| {code(one.name)} | {cell(one.unit)} | {_BETTER[one.better]} | {cell(one.meaning)} |"
            for one in METRICS
            if one.stage == stage
        ]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"

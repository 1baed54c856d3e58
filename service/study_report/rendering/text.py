"""Figures as people read them: scores per cent, differences in points, all with their uncertainty."""

from service.contract.study_report import ArmComparison, Bounds, Figure

NOTHING = "–"


def per_cent(figure: Figure | None) -> str:
    """`42.3 ± 1.1`; without ± where one seed says nothing about chance."""
    if figure is None:
        return NOTHING
    reach = figure.half_width
    return f"{100 * figure.mean:.1f}" + ("" if reach is None else f" ± {100 * reach:.1f}")


def plain(figure: Figure) -> str:
    """In the figure's own unit."""
    reach = figure.half_width
    return number(figure.mean) + ("" if reach is None else f" ± {number(reach)}")


def points(figure: Figure) -> str:
    """`+1.2 [-0.3, +2.7]`."""
    mean = f"{100 * figure.mean:+.1f}"
    if figure.low is None or figure.high is None:
        return mean
    return f"{mean} [{100 * figure.low:+.1f}, {100 * figure.high:+.1f}]"


def bounds(found: Bounds) -> str:
    """`0.42 [0.10, 0.70]`."""
    if found.value is None:
        return NOTHING
    interval = "" if found.low is None or found.high is None else f" [{number(found.low)}, {number(found.high)}]"
    return number(found.value) + interval


def number(value: float) -> str:
    """Three digits that count."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def verdict(row: ArmComparison) -> str:
    """Of a comparison, in a word or two."""
    if row.is_distinguishable is None:
        return "too few seeds"
    return "distinguishable" if row.is_distinguishable else "not distinguishable"


def hours(seconds: float) -> str:
    """Device-hours."""
    return f"{seconds / 3600:.2f}"


def share(value: float | None) -> str:
    """Per cent, of a share that may be unknown."""
    return NOTHING if value is None else f"{100 * value:.1f} %"


def seeds(figure: Figure | None) -> str:
    """Number of seeds, and of runs where there are more."""
    if figure is None:
        return NOTHING
    more = figure.num_runs > figure.num_units
    return f"{figure.num_units} ({figure.num_runs} runs)" if more else str(figure.num_units)


def one_line(text: str) -> str:
    """What people wrote, on one line and without characters that steer a terminal."""
    return "".join(character for character in " ".join(text.split()) if character.isprintable())

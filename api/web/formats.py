"""Numbers as pages show them; the units are those of the registry of metrics."""

from math import isfinite

from service.contract.metric_names import describe_metric

_UNITS = ((86_400.0, "d", 3600.0, "h"), (3600.0, "h", 60.0, "min"), (60.0, "min", 1.0, "s"))


def shown_plain(value: float | None) -> str:
    """A count or an amount without needless digits; a dash for none."""
    return "–" if value is None else f"{value:,.6g}"


def shown_duration(seconds: float | None) -> str:
    """In the two largest units that say something: `45 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    if seconds is None or not isfinite(seconds):
        return "–"
    for size, unit, smaller, its_unit in _UNITS:
        if seconds >= size:
            whole, rest = divmod(seconds, size)
            left = int(rest // smaller)
            return f"{whole:g} {unit}" + (f" {left} {its_unit}" if left else "")
    return f"{seconds:.0f} s" if seconds >= 1 or seconds == 0 else f"{seconds:.1g} s"


def shown_metric(value: float | None, name: str) -> str:
    """A value of this metric with its unit: fractions as per cent, seconds as a duration."""
    if value is None:
        return "–"
    if not isfinite(value):
        return str(value)
    metric = describe_metric(name)
    unit = metric.unit if metric else ""
    match unit:
        case "fraction":
            return f"{100 * value:.1f} %"
        case "s":
            return shown_duration(value)
    return f"{value:.4g} {unit}".rstrip()

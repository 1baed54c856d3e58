"""Dashboard and alerts ask for what the processes tell."""

import json
import re
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import REGISTRY

import service.scheduler.figure_gauges
import service.telemetry

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
_IMPORTED = (service.scheduler.figure_gauges, service.telemetry)
"""Their import makes the metrics known."""


def told() -> set[str]:
    """Every sample's name that a process can tell, whether or not it has a value yet."""
    found: set[str] = set()
    for metric in REGISTRY.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(metric.type, ("",))
        found |= {f"{metric.name}{suffix}" for suffix in suffixes}
    return {name for name in found if name.startswith("sedray_")}


def asked(expression: str) -> set[str]:
    return set(re.findall(r"\bsedray_\w+", expression))


def test_the_dashboard_asks_for_what_is_told() -> None:
    dashboard = json.loads((DEPLOY / "grafana/dashboards/sedray.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert set().union(*map(asked, expressions)) <= told()
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(places) == len(set(places))


def test_the_alerts_ask_for_what_is_told_and_say_what_happened() -> None:
    rules = [rule for group in _read("prometheus/alerts.yml")["groups"] for rule in group["rules"]]
    assert all(asked(rule["expr"]) and asked(rule["expr"]) <= told() for rule in rules)
    assert all(rule["annotations"]["summary"].endswith(".") for rule in rules)


def test_prometheus_looks_where_the_processes_tell() -> None:
    compose = _read("../docker-compose.yml")["services"]
    [job] = _read("prometheus/prometheus.yml")["scrape_configs"]
    [place] = job["dns_sd_configs"]
    ports = {compose[name]["environment"]["SEDRAY_METRICS_PORT"] for name in place["names"]}
    assert ports == {str(place["port"])}


def _read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((DEPLOY / name).read_text())
    return content

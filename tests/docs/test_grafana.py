"""docs/grafana.json, a dashboard to import: it asks for metrics and labels that there are, and for all of them."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

from pipelines.flow.metrics import Metrics

DASHBOARD = json.loads((Path(__file__).parents[2] / "docs" / "grafana.json").read_text("utf-8"))
ASKED = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
_SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket",)}


def _metrics() -> dict[str, set[str]]:
    """The names that Prometheus scrapes, and their labels."""
    families = list(Metrics().registry.collect())
    labels = {collector._name: set(collector._labelnames) for collector in vars(Metrics()).values() if _is(collector)}
    return {family.name + end: labels.get(family.name, set()) for family in families for end in _SUFFIXES[family.type]}


def _is(thing: object) -> bool:
    return hasattr(thing, "_labelnames")


def test_every_metric_is_asked_for_and_no_other() -> None:
    asked = set(re.findall(r"kilowatch_\w+", " ".join(ASKED)))
    assert asked == set(_metrics())


def test_what_is_summed_by_is_a_label_of_the_metric() -> None:
    known = _metrics()
    for expr in ASKED:
        (name,) = re.findall(r"kilowatch_\w+", expr)
        by = {label.strip() for found in re.findall(r"by \(([^)]*)\)", expr) for label in found.split(",")}
        assert by - {"le"} <= known[name], expr
        assert ("rate(" in expr) == name.endswith(("_total", "_bucket")), expr
        assert expr.count("(") == expr.count(")")


def test_panels_do_not_lie_over_each_other() -> None:
    boxes = sorted(
        (p["gridPos"]["y"], p["gridPos"]["x"], p["gridPos"]["w"], p["gridPos"]["h"]) for p in DASHBOARD["panels"]
    )
    for (y, x, width, height), (next_y, next_x, _, _) in pairwise(boxes):
        assert next_y >= y + height if next_y != y else next_x >= x + width
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(boxes)

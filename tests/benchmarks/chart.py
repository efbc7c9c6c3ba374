"""The chart of docs/performance.md: readings per CPU-second of every contender, row by row.

Not here: any other picture, any figure that is not in docs/performance.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

ROWS = ("file", "kafka", "arrow")
OWN, OTHER = "#1f6f8b", "#c4c4c4"


def draw(known: dict[str, Any], path: Path) -> None:
    """Write the chart as SVG: the same figures give the same bytes."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib.figure import Figure

    bars = [
        (f"{name}: {contender['name']}", contender["per_cpu_s"], contender["name"] == "kilowatch")
        for name in ROWS
        for contender in known["rows"].get(name, {}).get("contenders", [])
    ]
    with mpl.rc_context({"svg.hashsalt": "kilowatch", "svg.fonttype": "none", "font.size": 10}):
        figure = Figure(figsize=(8, 0.6 + 0.34 * max(len(bars), 1)), layout="constrained")
        axes = figure.add_subplot()
        axes.barh(
            [label for label, _, _ in bars], [v for _, v, _ in bars], color=[OWN if own else OTHER for *_, own in bars]
        )
        for at, (_, value, _) in enumerate(bars):
            axes.annotate(f" {value / 1000:,.0f} k", (value, at), va="center")
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set_xlabel("readings per CPU-second, start-up included")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:,.0f} k")
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None, "Creator": None})

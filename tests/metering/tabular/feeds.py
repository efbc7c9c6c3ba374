"""Green Button feeds, written as utilities do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

START_S = 1_772_323_200  # 2026-03-01 00:00 UTC
ESPI, ATOM = "http://naesb.org/espi", "http://www.w3.org/2005/Atom"


@dataclass
class Reading:
    """`value` as written; without `start_s` the reading gives no time of its own."""

    value: str
    start_s: int | None = None
    duration_s: int | None = 900
    quality: str | None = None

    def xml(self, p: str) -> str:
        quality = (
            f"<{p}ReadingQuality><{p}quality>{self.quality}</{p}quality></{p}ReadingQuality>" if self.quality else ""
        )
        duration = "" if self.duration_s is None else f"<{p}duration>{self.duration_s}</{p}duration>"
        start = (
            ""
            if self.start_s is None
            else f"<{p}timePeriod>{duration}<{p}start>{self.start_s}</{p}start></{p}timePeriod>"
        )
        value = f"<{p}cost>12</{p}cost>{quality}{start}<{p}value>{self.value}</{p}value>"
        return f"<{p}IntervalReading>\n{value}</{p}IntervalReading>"


@dataclass
class Series:
    """A MeterReading with its ReadingType and its blocks of readings."""

    blocks: list[list[Reading]]
    type: dict[str, int] = field(default_factory=dict)

    def all_of(self) -> list[Reading]:
        return [reading for block in self.blocks for reading in block]


@dataclass
class Point:
    name: str
    series: list[Series]
    service: int = 0
    title: str = ""


TYPE = {"accumulationBehaviour": 4, "commodity": 1, "dataQualifier": 12, "flowDirection": 1, "intervalLength": 900,
        "kind": 12, "powerOfTenMultiplier": 0, "uom": 72}  # fmt: skip


def entry(self: str, up: str, related: Sequence[str], content: str, title: str = "") -> str:
    links = [("self", self), ("up", up), *(("related", link) for link in related)]
    shown = "".join(f'<link rel="{relation}" href="{link}"/>' for relation, link in links if link)
    about = f"<id>urn:uuid:{sum(self.encode())}</id>{shown}<title>{title}</title>"
    return f"<entry>{about}<content>{content}</content></entry>\n"


def entries_of(points: Sequence[Point], prefix: str = "", base: str = "") -> list[str]:
    p = f"{prefix}:" if prefix else ""
    space = f' xmlns{":" + prefix if prefix else ""}="{ESPI}"'
    entries = [
        entry(
            f"{base}LocalTimeParameters/01", f"{base}LocalTimeParameters", [],
            f"<{p}LocalTimeParameters{space}><{p}tzOffset>-18000</{p}tzOffset></{p}LocalTimeParameters>",
        )
    ]  # fmt: skip
    number = 0
    for point in points:
        at = f"{base}RetailCustomer/9b6c/UsagePoint/{point.name}"
        service = f"<{p}ServiceCategory><{p}kind>{point.service}</{p}kind></{p}ServiceCategory>"
        content = f"<{p}UsagePoint{space}>{service}</{p}UsagePoint>"
        entries.append(entry(at, at.rpartition("/")[0], [f"{at}/MeterReading"], content, point.title))
        for series in point.series:
            number += 1
            reading, kind = f"{at}/MeterReading/{number:02}", f"{base}ReadingType/{number:02}"
            entries.append(
                entry(reading, f"{at}/MeterReading", [f"{reading}/IntervalBlock", kind], f"<{p}MeterReading{space}/>")
            )
            values = "".join(f"<{p}{name}>{value}</{p}{name}>" for name, value in {**TYPE, **series.type}.items())
            entries.append(entry(kind, f"{base}ReadingType", [], f"<{p}ReadingType{space}>{values}</{p}ReadingType>"))
            for index, block in enumerate(series.blocks):
                start = next((r.start_s for r in block if r.start_s is not None), START_S)
                interval = f"<{p}interval><{p}duration>86400</{p}duration><{p}start>{start}</{p}start></{p}interval>"
                rows = "\n".join(r.xml(p) for r in block)
                entries.append(
                    entry(
                        f"{reading}/IntervalBlock/{index}", f"{reading}/IntervalBlock", [],
                        f"<{p}IntervalBlock{space}>{interval}{rows}</{p}IntervalBlock>",
                    )
                )  # fmt: skip
    return entries


def feed_of(entries: Sequence[str], declaration: str = '<?xml version="1.0" encoding="UTF-8"?>') -> str:
    return (
        f'{declaration}\n<feed xmlns="{ATOM}">\n<id>urn:uuid:feed</id><title>Usage</title>\n{"".join(entries)}</feed>\n'
    )


def run_of(
    values: Sequence[str], start_s: int = START_S, length_s: int = 900, quality: str | None = None
) -> list[Reading]:
    return [Reading(value, start_s + number * length_s, length_s, quality) for number, value in enumerate(values)]

"""How an unknown table lies in its file: delimiter, header, names of columns, one row a day.

Here: looking at texts and names. Not here: what the columns hold (`guess_stamps`, `guess_quantities`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from metering.tabular.delimited import all_records

_DELIMITERS = ";\t,|"
_DAY_S = 86_400
LENGTHS = (24, 48, 96, 144, 288, 1440)
"""Into how many intervals of one length days are cut."""
NUMBER = re.compile(r"[-+]?(\d{1,3}([.,' \u00a0\u202f]\d{3})+|\d+)([.,]\d+)?([eE][-+]?\d+)?%?")
METER = re.compile(
    r"meter(?!ing)|zähl(er|punkt)|zaehl|\bnmi\b|mpan|\bprm\b|\bpdl\b|cups|\bean\b|电表|表计|计量点|资产号|asset|anlage|serial|device|point.?id",
    re.I,
)
CUSTOMER = re.compile(r"customer|kunde|client|account|户号|用户|\bsite\b|\bid\b|_id$", re.I)


def delimiter_of(text: str) -> str:
    """What cuts most lines into the same number of cells, more than one."""
    lines = [line for line in text[:200_000].splitlines()[:200] if line.strip()]

    def evenness(delimiter: str) -> tuple[float, int]:
        counts = Counter(len(cells) for cells in all_records("\n".join(lines), delimiter)["cells"].to_list())
        width, often = max(counts.items(), key=lambda item: (item[0] > 1, item[1], item[0]), default=(1, 0))
        return (often / max(len(lines), 1) if width > 1 else 0.0), width

    return max(_DELIMITERS, key=evenness)


def meter_above(rows: Sequence[Sequence[str]]) -> str:
    """What lines above the header say of the meter, as `Meter: 310105200001` or in two cells; or nothing."""
    for pattern in (METER, CUSTOMER):
        for row in rows:
            cells = [part.strip() for cell in row for part in re.split(r"[:：=]", cell, maxsplit=1) if part.strip()]
            if len(cells) == 2 and pattern.search(cells[0]) and 1 <= len(cells[1]) <= 64:
                return cells[1]
    return ""


def is_data(row: Sequence[str]) -> bool:
    """Numbers, or a time, in a row of several cells; names of columns may be hours of the day, but not most of them."""
    filled = [cell for cell in row if cell]
    numbers = sum(bool(NUMBER.fullmatch(cell)) for cell in filled)
    dates = sum(bool(re.match(r"\d{1,4}[-./年]\d{1,2}[-./月]\d{1,4}", cell)) for cell in filled)
    return bool(dates) or (numbers > len(filled) / 2 and not clock_run(tuple(row)))


def names_of(header: Sequence[str]) -> tuple[str, ...]:
    """Each column as a mapping names it: by its name, the n-th of its name, or its place. Figures in it may change."""
    changing = [re.sub(r"\d[\d.,' ]*(?=\s*[kM]?(Wh|W|var)\b)", "*", name) for name in header]
    often = Counter(changing)
    seen: Counter[str] = Counter()
    names = []
    for place, name in enumerate(changing, 1):
        seen[name] += 1
        names.append(f"#{place}" if not name else name if often[name] == 1 else f"{name}#{seen[name]}")
    return tuple(names)


def clock_run(header: tuple[str, ...]) -> tuple[int, int, int] | None:
    """Columns that name the intervals of a day: where they begin and end, and how long one is in seconds."""
    for read in (_minutes_of, _place_of):
        runs = [read(name) for name in header]
        best = _longest_run(runs)
        if best is not None:
            first, last = best
            step = (runs[first + 1] or 0) - (runs[first] or 0)
            count = last - first
            if read is _minutes_of:
                return first, last, step * 60
            day = next((n for n in LENGTHS if n <= count <= n + n // 24), None)
            if day is not None and runs[first] in (0, 1) and step == 1:
                return first, last, _DAY_S // day
    return None


def _minutes_of(name: str) -> int | None:
    found = re.fullmatch(r"[A-Za-z_]?(\d{1,2}):?(\d{2})(?::00)?(?:\s*[-–].*)?", name.strip())
    if found is None or int(found[1]) > 24 or int(found[2]) > 59:
        return None
    return int(found[1]) * 60 + int(found[2])


def _place_of(name: str) -> int | None:
    found = re.fullmatch(r"[A-Za-z_]{0,8}?_?(\d{1,4})", name.strip())
    return int(found[1]) if found else None


def _longest_run(values: Sequence[int | None]) -> tuple[int, int] | None:
    """The longest stretch of at least 23 values that rise by the same step; a last 0 closes the day."""
    best: tuple[int, int] | None = None
    first = 0
    while first < len(values) - 1:
        here, following = values[first], values[first + 1]
        if here is None or following is None or following <= here:
            first += 1
            continue
        step, last = following - here, first + 2
        while last < len(values) and (now := values[last]) is not None and (now - (values[last - 1] or 0)) == step:
            last += 1
        if last < len(values) and values[last] == 0 and (values[last - 1] or 0) + step == 1440:
            last += 1
        if last - first >= 23 and (best is None or last - first > best[1] - best[0]):
            best = first, last
        first = last - 1
    return best

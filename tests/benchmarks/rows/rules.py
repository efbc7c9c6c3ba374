"""Rules: CPU by reading with the whole catalogue against four rules of it, and with 25 of a home's own besides.

Files are the input, with few violations. Those of the home are made up and hardly ever broken, as rules are; how its
settings say them is told in `made_up` and `switched_off` alone.
"""

from __future__ import annotations

from functools import partial

from metering.events.catalogue import default_rules
from tests.benchmarks.answers import check_lake
from tests.benchmarks.bench import Bench, Found
from tests.benchmarks.data import RULES, Load
from tests.benchmarks.homes import Home
from tests.benchmarks.measure import ContenderError, Cost, alternate
from tests.benchmarks.rows.growth import start_up_of, without

MORE = 25
NEVER_MET = (
    ("u", "above", "nominal_v", 1.4),
    ("u", "below", "nominal_v", 0.6),
    ("i", "above", "rated_a", 1.5),
    ("p_kw", "above", "contract_capacity_kva", 1.8),
    ("q_kvar", "above", "contract_capacity_kva", 2.0),
    ("s_kva", "above", "contract_capacity_kva", 3.0),
)
"""Measure, side, base and limit of rules that no load of these benchmarks breaks."""


def switched_off(but: tuple[str, ...]) -> str:
    """Lines of a kilowatch.toml that switch all of the product's rules off but some."""
    off = [rule for rule in default_rules().by_id if rule not in but]
    return "".join(f'[[rules]]\nid = "{rule}"\nstart = 0\n' for rule in off)


def made_up(count: int) -> str:
    """Lines of a kilowatch.toml that add `count` rules to the product's."""
    rules = []
    for number in range(count):
        measure, side, base, limit = NEVER_MET[number % len(NEVER_MET)]
        rules.append(
            "[[rules]]\n"
            f'id = "made_up_{number:02}"\n'
            f'name_zh = "试验规则 {number:02}"\n'
            f'name_en = "made-up rule {number:02}"\n'
            f'measure = "{measure}"\n'
            f'side = "{side}"\n'
            f'base = "{base}"\n'
            f"start = {limit}\n"
            f"hold_s = {60 * (1 + number % 15)}\n"
            'severity = "warning"\n'
            'clause = "made up for a benchmark"\n'
        )
    return "".join(rules)


def run(bench: Bench) -> Found:
    load = bench.load(Load(1000, 1440), Load(1000, 240))
    source, expected = bench.file(load), bench.windows(load)
    catalogue = len(default_rules().in_use)
    settings = {
        f"{len(RULES)} rules": switched_off(RULES),
        f"the catalogue, {catalogue} rules": "",
        f"{catalogue + MORE} rules": made_up(MORE),
    }
    *_, many = settings
    if reason := _refused(bench, settings[many]):
        return Found(load="nothing was run", skipped={many: reason})

    def over(name: str) -> Cost:
        home = Home(bench.folder / "rules", load, settings[name])
        cost = home.files(source)
        check_lake(load, expected, home.path)
        home.remove()
        return cost

    contenders = {name: partial(over, name) for name in settings} | {"start-up": start_up_of(bench, load)}
    found = alternate(contenders, dict.fromkeys(contenders, bench.runs), load.readings, bench.say)
    start = found["start-up"]
    costs = [without(found[name], start) for name in settings]
    of_few, of_whole, of_many = (cost.cpu_s for cost in costs)
    return Found(
        load=f"{load.readings:,} readings from a file",
        measures={"rules_pct": (of_whole / of_few - 1) * 100, "more_rules_pct": (of_many / of_whole - 1) * 100},
        contenders=costs,
        notes=["CPU seconds are without start-up."],
    )


def _refused(bench: Bench, settings: str) -> str:
    """Why this `kilowatch` does not take rules from a home's settings; empty when it does."""
    load = Load(1, 1)
    home = Home(bench.folder / "rules", load, settings)
    source = bench.folder / "empty.ndjson"
    source.touch()
    try:
        home.files(source)
    except ContenderError:
        told = home.log.read_text("utf-8").strip().splitlines()
        return f"this `kilowatch` takes no such rules from kilowatch.toml ({told[-1] if told else 'no reason given'})"
    finally:
        home.remove()
    return ""

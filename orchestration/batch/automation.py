"""When assets run by themselves: after new parts in the lake, for the days that these are of.

Here: the conditions, and the sensor that evaluates them. Not here: noticing new parts (`sensors`).
"""

from typing import Any

import dagster as dg

from assets.lake import LAKE_GROUP, lake_key

_C = dg.AutomationCondition


def after_dependencies() -> dg.AutomationCondition[Any]:
    """Eager, for every day and not only the latest, and never past a failed blocking check.

    A day runs when something that it depends on has been updated, or is there while the day itself is missing. A day
    may lack some inputs for good (no violations, say), so missing dependencies do not hold it back.
    """
    idle = ~_C.any_deps_in_progress() & ~_C.in_progress()
    lake = dg.AssetSelection.groups(LAKE_GROUP)
    from_lake = _due(_C.any_deps_match(_C.newly_updated()).allow(lake), present=_C.any_deps_match(~_C.missing()))
    from_assets = _C.any_deps_updated().ignore(lake).since(_C.newly_requested() | _C.newly_updated())
    return ((from_lake | from_assets) & idle & _all_deps_sound()).with_label("new data")


def with_readings() -> dg.AutomationCondition[Any]:
    """For the registry, which depends on nothing in Dagster: taken anew with every day that gets readings."""
    readings = lake_key("readings")
    due = _due(
        updated=_C.asset_matches(readings, _C.newly_updated()), present=_C.asset_matches(readings, ~_C.missing())
    )
    return (due & ~_C.in_progress()).with_label("new readings")


def _all_deps_sound() -> dg.AutomationCondition[Any]:
    """As Dagster's all_deps_blocking_checks_passed, but for what a day lacks for good, and what is requested with it.

    What is requested together runs together, and a failed check stops the run there. (Dagster asks whether the check is
    requested; one that is made by the asset's own step never counts as such.)
    """
    sound = _C.all_checks_match(_C.check_passed(), blocking_only=True)
    return _C.all_deps_match(sound | _C.will_be_requested() | _C.missing()).with_label(
        "all_deps_blocking_checks_passed"
    )


def _due(updated: dg.AutomationCondition[Any], present: dg.AutomationCondition[Any]) -> dg.AutomationCondition[Any]:
    """Days to run: the lake has been `updated`, or is `present` while the day is missing. Holds until the next request.

    Not until the next update, as for other dependencies: parts that come while a run is on its way may not be in that
    run, and ask for another. An update seen on the tick after a request would be forgotten with it, so every
    update counts on the tick after its own too.
    """
    just_before = (~updated).newly_true() & ~_C.initial_evaluation() & present
    return (updated | just_before | (_C.missing() & present).newly_true()).since(_C.newly_requested())


def automation_sensor() -> dg.AutomationConditionSensorDefinition:
    """Evaluates the conditions; on from the start. Several days at once become one backfill, hence few runs."""
    return dg.AutomationConditionSensorDefinition(
        "automation",
        target=dg.AssetSelection.all(),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
    )

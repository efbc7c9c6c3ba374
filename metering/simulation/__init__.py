"""A fleet of large customers that does not exist: its registry, its telemetry, its labelled faults.

Here: `draw_fleet` (who there is) and `simulate` (what their meters report). Everything follows from a seed, by hashing:
no state but the registers, no clock, no I/O.

    draws       pseudo-random numbers as Polars expressions
    industries  what each industry's load looks like
    fleet       customers, meters and their traits
    loads       a meter's power, voltage, current and registers at given times
    faults      when which meter is at fault, and what that does
    control     a plan of load control, and customers that answer to it
    run         time slices in order of arrival, with labels
"""

from metering.simulation.control import shed_of
from metering.simulation.fleet import Fleet, draw_fleet
from metering.simulation.run import LABELS, Arrivals, simulate

__all__ = ["LABELS", "Arrivals", "Fleet", "draw_fleet", "shed_of", "simulate"]

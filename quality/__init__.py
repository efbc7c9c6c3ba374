"""Data-quality gates: Great Expectations suites generated from the tables' declarations."""

from quality.suite import Failure as Failure
from quality.suite import Verdict as Verdict
from quality.suite import suite as suite
from quality.suite import validate as validate

"""Day-ahead load forecasts: what is known at midnight (`history`), the forecast (`model`), its accuracy (`score`)."""

from metering.forecast.model import Learner as Learner
from metering.forecast.model import LearnerFactory as LearnerFactory
from metering.forecast.model import Model as Model
from metering.forecast.model import day_ahead as day_ahead
from metering.forecast.model import fit as fit
from metering.forecast.model import predict as predict
from metering.forecast.score import accuracy as accuracy

"""Charges: time of use, and what a month costs."""

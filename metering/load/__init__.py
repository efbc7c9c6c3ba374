"""Load: 15-minute windows, registers, daily curves and the indices of a day."""

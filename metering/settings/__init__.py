"""The figures that rules and formulae use, as frozen values."""

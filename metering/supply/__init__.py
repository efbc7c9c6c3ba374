"""Supply: phases, voltage, power factor, and compliance to date."""

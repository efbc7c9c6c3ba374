"""From a figure of the warehouse back to what it rests on: whose, of which time, as it was known when."""

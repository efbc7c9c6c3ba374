"""Load control: plans, what customers would have used without them, and what they did."""

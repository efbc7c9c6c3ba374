"""Messages to people: what happened, who is told, when, and in which words. No clock, no I/O."""

"""Messages to people on their way: the ledger of what is due and was sent, channels, outcomes."""

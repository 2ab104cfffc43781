"""The simulator: a made-up city whose meters send readings, with faults and a ledger of all that was sent."""

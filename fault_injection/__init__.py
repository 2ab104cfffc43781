"""The fault suite: real processes broken on purpose, one row per process and fault, each checked to the message.

`meters faults` runs it (meter_cli/faults.py). A row breaks something under a seeded load; afterwards all that was sent
is accounted for by code that shares nothing with the product: a plain Kafka consumer, its own JSON rules, its own sums.
A development tool like benchmarks/, and not a part of the product.
"""

"""The metering domain: the message contract, fault rules, registry, settings and storage layout.

No Dagster and no Kafka here, and no input or output at import. Everyone may import it; it imports nobody.
"""

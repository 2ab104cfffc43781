"""The corpus of messages that a meter, a gateway or an attacker may send, each with the verdict that it must get.

One module per group of classes; `CASES` is all of them. `case.py` says what a case is, `verdicts.py` asks ingest's
parser and the router's columns, and `generated.py` makes more messages out of these by mutation.
"""

from meter_assets_tests.corpus import fields, identity, numbers, syntax, times, transport
from meter_assets_tests.corpus.case import Case, numbered

CASES: tuple[Case, ...] = numbered(
    [*syntax.CASES, *fields.CASES, *numbers.CASES, *times.CASES, *identity.CASES, *transport.CASES]
)

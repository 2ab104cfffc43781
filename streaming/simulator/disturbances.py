"""In which order simulated messages go out, and which go out again, contradicted or followed by garbage.

Knows messages, not meters. What is counted here is what was really sent: a reading is late because a newer one of its
meter had gone out before it, whatever the dice had planned.
"""

import heapq
import random
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from streaming.simulator.malformed import GARBLERS, conflicting, garbled
from streaming.simulator.options import SimulationOptions
from streaming.simulator.sent_ledger import Ledger

LATE_SECONDS = 6 * 3600
"""Longest delay of a late message in simulated time."""
LONGEST_REPEAT_ROUNDS = 3
"""A message is sent again, or contradicted, at most this many rounds after it."""


class _Kind(IntEnum):
    READING = 0
    DUPLICATE = 1
    CONFLICT = 2


class _Waiting(NamedTuple):
    due_round: int
    number: int  # keeps the order of sending among messages of one round, and spares comparing what follows
    kind: _Kind
    meter: int
    epoch: int
    key: bytes
    value: bytes


class Disturbances:
    """Sends readings through `send(value, key)`, with the disturbances that the options ask for.

    Args:
        send: sends one message; calls keep their order.
        ledger: counts every message sent.
        options: the rates.
        meters: how many meters there are.
        step_seconds: time from one round to the next.
        latest_rounds: how many rounds a late message waits at most.
    """

    def __init__(
        self,
        send: Callable[[bytes, bytes], None],
        ledger: Ledger,
        options: SimulationOptions,
        *,
        meters: int,
        step_seconds: int,
        latest_rounds: int,
    ) -> None:
        self._send = send
        self._ledger = ledger
        self._step_seconds = step_seconds
        self._latest_rounds = max(2, latest_rounds)
        self._late_rate = options.late_rate
        self._held_rate = options.late_rate + options.out_of_order_rate
        self._duplicate_rate = options.duplicate_rate
        self._conflict_rate = options.conflict_rate
        self._garbage_rate = options.garbage_rate
        self._chance = random.Random(f"{options.seed}|delivery")  # noqa: S311 - reproducible, no secret
        self._newest = [0] * meters
        self._waiting: list[_Waiting] = []
        self._number = 0
        self._round = 0

    def offer(self, meter: int, epoch: int, key: bytes, value: bytes) -> None:
        """Send a reading now, or keep it for a later round."""
        if self._held_rate:
            dice = self._chance.random()
            if dice < self._held_rate:
                rounds = self._chance.randint(2, self._latest_rounds) if dice < self._late_rate else 1
                self._wait(rounds, _Kind.READING, meter, epoch, key, value)
                return
        self._send_reading(meter, epoch, key, value)

    def end_round(self) -> None:
        """Send what waited for this round; call it after the round's own readings."""
        while self._waiting and self._waiting[0].due_round <= self._round:
            self._release(heapq.heappop(self._waiting))
        self._round += 1

    def drain(self) -> None:
        """Send all that still waits."""
        while self._waiting:
            self._release(heapq.heappop(self._waiting))

    def _wait(self, rounds: int, kind: _Kind, meter: int, epoch: int, key: bytes, value: bytes) -> None:
        self._number += 1
        heapq.heappush(self._waiting, _Waiting(self._round + rounds, self._number, kind, meter, epoch, key, value))

    def _release(self, item: _Waiting) -> None:
        if item.kind is _Kind.READING:
            self._send_reading(item.meter, item.epoch, item.key, item.value)
            return
        self._send(item.value, item.key)
        self._ledger.messages += 1
        if item.kind is _Kind.DUPLICATE:
            self._ledger.duplicates += 1
        else:
            self._ledger.conflicts += 1

    def _send_reading(self, meter: int, epoch: int, key: bytes, value: bytes) -> None:
        self._send(value, key)
        ledger = self._ledger
        ledger.messages += 1
        ledger.readings += 1
        newest = self._newest[meter]
        if epoch >= newest:
            self._newest[meter] = epoch
        elif newest - epoch <= self._step_seconds:
            ledger.out_of_order += 1
        else:
            ledger.late += 1
        chance = self._chance
        # Only now, not when the reading was made: a conflict must follow its reading, however late that one was.
        if self._duplicate_rate and chance.random() < self._duplicate_rate:
            self._wait(chance.randint(0, LONGEST_REPEAT_ROUNDS), _Kind.DUPLICATE, meter, epoch, key, value)
        if self._conflict_rate and chance.random() < self._conflict_rate:
            rounds = chance.randint(0, LONGEST_REPEAT_ROUNDS)
            self._wait(rounds, _Kind.CONFLICT, meter, epoch, key, conflicting(value))
        if self._garbage_rate and chance.random() < self._garbage_rate:
            self._send(garbled(value, chance.randrange(len(GARBLERS))), key)
            ledger.messages += 1
            ledger.garbage += 1

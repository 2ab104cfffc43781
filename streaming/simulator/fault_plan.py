"""When a simulated meter is faulty: a planned share of its readings, partly in runs as real faults come.

Pure, like the meter model: whether a reading is faulty depends on seed, meter, rate and instant, never on where a
simulation began. Running overlapping days again therefore sends the same bytes again: duplicates, not conflicts.
"""

from streaming.simulator.meter_model import mix, stable_hash

BLOCK_READINGS = 96
"""Readings in a block; each block of a meter has at most one run of faulty readings."""

_LONG_RUN_READINGS = (2, 12)
MEAN_RUN_READINGS = 4.0
"""Mean of runs of which half are a single reading and half are 2 to 12 long, evenly."""

_SCALE = 1.0 / (1 << 20)
_LOW = (1 << 20) - 1


class FaultPlan:
    """The faulty readings of one meter.

    Args:
        seed: the simulation's.
        device_id: the meter.
        rate: share of readings that are faulty, 0 to 1.
        step_seconds: time between two readings; a reading's number is its epoch divided by it.
    """

    def __init__(self, seed: int, device_id: str, rate: float, step_seconds: int) -> None:
        self._key = stable_hash(f"{seed}|faults|{device_id}")
        self._rate = rate
        self._block_seconds = step_seconds * BLOCK_READINGS
        self._step_seconds = step_seconds
        # Blocks of different meters begin at different times, so that their runs do not share borders.
        self._shift_seconds = self._key % BLOCK_READINGS * step_seconds
        self._until = -1
        self._faulty_from = self._faulty_until = 0

    def is_faulty(self, epoch: int) -> bool:
        """Whether the reading at `epoch` is faulty. Quick for instants that ascend; right for any."""
        if self._rate <= 0:
            return False
        if not self._until - self._block_seconds <= epoch < self._until:
            self._plan_block((epoch + self._shift_seconds) // self._block_seconds)
        return self._faulty_from <= epoch < self._faulty_until

    def _plan_block(self, block: int) -> None:
        start = block * self._block_seconds - self._shift_seconds
        bits = mix(self._key, block)
        first, second, third = ((bits >> shift & _LOW) * _SCALE for shift in (0, 20, 40))
        wanted = self._rate * BLOCK_READINGS
        if wanted > MEAN_RUN_READINGS:
            # Too many for runs of the usual length: every block has one that is as long as the rate asks for.
            length = min(BLOCK_READINGS, int(wanted + first))
        elif first < wanted / MEAN_RUN_READINGS:
            shortest, longest = _LONG_RUN_READINGS
            length = 1 if second < 0.5 else shortest + int((second - 0.5) * 2 * (longest - shortest + 1))
        else:
            length = 0
        offset = int(third * (BLOCK_READINGS - length + 1))
        self._until = start + self._block_seconds
        self._faulty_from = start + offset * self._step_seconds
        self._faulty_until = self._faulty_from + length * self._step_seconds

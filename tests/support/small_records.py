"""A few records of a simulator, one API to learn from and one held out, built once a process."""

from __future__ import annotations

from functools import cache

from fission_grpo.simulator_lab.corpus import RecordSettings, simulator_records
from fission_grpo.simulator_lab.records import SimulatorRecord

SMALL = RecordSettings(count=40, tasks_per_api=4, apis=("TicketAPI", "MessageAPI"))


@cache
def records() -> tuple[SimulatorRecord, ...]:
    return tuple(simulator_records(SMALL)[0])

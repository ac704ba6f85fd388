"""The platform on loopback, so that no telephone rings in tests, demonstrations and development.

`machine`, `scenario`, `calls`, `wire` and `engine` are pure; `api` and `sender` speak HTTP,
`server` runs it all.
"""

from __future__ import annotations

from qmc_async.sandbox.assumed import AbsentFields, Assumed
from qmc_async.sandbox.calls import SimulatedCall
from qmc_async.sandbox.chances import FAULT_NAMES, FaultRates
from qmc_async.sandbox.clock import Clock, RealClock, VirtualClock
from qmc_async.sandbox.history import (
    Actor,
    Attempt,
    Endpoint,
    Entry,
    Exchange,
    Move,
    Received,
    Withheld,
)
from qmc_async.sandbox.machine import Action, IllegalAction, State
from qmc_async.sandbox.scenario import (
    DEFAULT_BEHAVIOUR,
    SCENARIOS_BY_DIGITS,
    Behaviour,
    Faults,
    Rule,
    Scenario,
    Step,
)
from qmc_async.sandbox.server import Sandbox

__all__ = [
    "DEFAULT_BEHAVIOUR",
    "FAULT_NAMES",
    "SCENARIOS_BY_DIGITS",
    "AbsentFields",
    "Action",
    "Actor",
    "Assumed",
    "Attempt",
    "Behaviour",
    "Clock",
    "Endpoint",
    "Entry",
    "Exchange",
    "FaultRates",
    "Faults",
    "IllegalAction",
    "Move",
    "RealClock",
    "Received",
    "Rule",
    "Sandbox",
    "Scenario",
    "SimulatedCall",
    "State",
    "Step",
    "VirtualClock",
    "Withheld",
]

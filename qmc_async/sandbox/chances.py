"""What happens only sometimes: probabilities, and faults that may befall any call."""

from __future__ import annotations

from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from attrs import evolve

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qmc_async.sandbox.scenario import Faults

__all__ = ["FAULT_NAMES", "ONCE_BEFALLEN", "FaultRates", "check_probability", "happens"]

ONCE_BEFALLEN: Final[Mapping[str, Any]] = {
    "drop_notification": True,
    "delay_notification": timedelta(minutes=1),
    "duplicate_notification": True,
    "malformed_notification": True,
    "early_notification": True,
    "lose_reply": True,
    "recording_fails": True,
}
"""What each fault is where it befalls a call, by its name in `Faults`."""

_NOTHING_IS_SENT: Final[dict[str, Any]] = {
    "delay_notification": timedelta(0),
    "duplicate_notification": False,
    "malformed_notification": False,
    "early_notification": False,
}

FAULT_NAMES: Final = tuple(ONCE_BEFALLEN)
"""The names alone."""


def check_probability(what: str, probability: float) -> None:
    """Refuse what is no probability.

    Raises:
        ValueError: it is not a number from 0 to 1.
    """
    if not 0 <= probability <= 1:  # nor is "not a number"
        raise ValueError(f"{what}: a probability is a number from 0 to 1")


def happens(probability: float, chance: Callable[[], float]) -> bool:
    """Draw, provided that there is something to draw.

    Args:
        probability: from 0 to 1.
        chance: draws a number from 0 to 1, and never 1.
    """
    return probability > 0 and (probability >= 1 or chance() < probability)


class FaultRates:
    """How likely each fault befalls a new call, besides what its rule or its digits say."""

    def __init__(self) -> None:
        self._rates = dict.fromkeys(FAULT_NAMES, 0.0)
        self._any = False

    @property
    def rates(self) -> Mapping[str, float]:
        """The probability, from 0 to 1, by the name that the fault has in `Faults`."""
        return MappingProxyType(self._rates)

    def set(self, fault: str, probability: float) -> None:
        """From now on let this fault befall a new call with that probability; 0 for never.

        A late notification is a minute late.

        Raises:
            KeyError: there is no such fault.
            ValueError: it is no probability.
        """
        if fault not in self._rates:
            raise KeyError(fault)
        check_probability(fault, probability)
        self._rates[fault] = probability
        self._any = any(self._rates.values())

    def befall(self, faults: Faults, chance: Callable[[], float]) -> Faults:
        """What goes wrong with a new call.

        Of what excludes each other, the worse remains: what is never sent is neither late nor
        early, and what is early is not late.

        Args:
            faults: what its rule or its digits say.
            chance: draws a number from 0 to 1, and never 1.
        """
        if not self._any:
            return faults
        drawn = {
            fault: ONCE_BEFALLEN[fault]
            for fault, probability in self._rates.items()
            if happens(probability, chance)
        }
        if drawn.get("drop_notification", faults.drop_notification):
            drawn |= _NOTHING_IS_SENT
        elif drawn.get("early_notification", faults.early_notification):
            drawn["delay_notification"] = timedelta(0)
        return evolve(faults, **drawn)

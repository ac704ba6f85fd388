"""The recordings of one run of the sandbox, as files in a directory of their own."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from qmc_async.sandbox.audio import write_wav

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from qmc_async.sandbox.calls import SimulatedCall

__all__ = ["Recordings"]


class Recordings:
    """Names and files of recordings. Whoever has the name can listen, so nobody can guess it.

    Args:
        directory: where the files go; it exists, and is removed by whoever made it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._names: dict[str, str] = {}
        self._calls: dict[str, SimulatedCall] = {}

    def name(self, call: SimulatedCall) -> str:
        """The file's name, the same for every request."""
        name = self._names.setdefault(call.call_id, f"{secrets.token_urlsafe(32)}.wav")
        self._calls[name] = call
        return name

    def call(self, name: str) -> SimulatedCall | None:
        """The call whose recording has that name, None where there is none."""
        return self._calls.get(name)

    def forget(self, call_id: str) -> None:
        """Delete the recording of that call, if there is one."""
        name = self._names.pop(call_id, None)
        if name is not None:
            del self._calls[name]
            (self._directory / name).unlink(missing_ok=True)

    def file(self, name: str, now: datetime) -> Path | None:
        """The file of that name, written when it is first asked for.

        Args:
            name: anything; only names that `name` gave out are looked at.
            now: the simulated time.

        Returns:
            None where there is no such recording, or none any more (3.3).
        """
        call = self._calls.get(name)
        if call is None or call.duration is None or call.recording_expires_at is None:
            return None
        path = self._directory / name
        if now >= call.recording_expires_at:
            path.unlink(missing_ok=True)
            return None
        if not path.exists():
            write_wav(path, int(call.duration.total_seconds()))
        return path

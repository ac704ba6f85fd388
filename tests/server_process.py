"""Real servers on loopback, as child processes of the tests: killed, frozen, and gone with them.

Linux only: which processes belong to a server is read from ``/proc``.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

HOST: Final = "127.0.0.1"
_PATIENCE: Final = 50.0  # less than the limit of a test, whose message would say less

# As in `proc(5)`; None is no process.
_DEAD: Final = {None, "Z", "X"}
_STOPPED: Final = {"T", "t", *_DEAD}

# What a dying parent does to a child (PR_SET_PDEATHSIG) depends on the thread that started it, not
# on the process: a server must not end with a test's thread. This one lives as long as Python.
_spawner = ThreadPoolExecutor(1, "servers")


class _Account(NamedTuple):
    """Who runs the servers: None is whoever runs the tests."""

    user: int | None
    group: int | None
    extra_groups: list[int] | None


def _account() -> _Account:
    """PostgreSQL and PgBouncer refuse to run as root: then it is nobody."""
    if os.geteuid():
        return _Account(None, None, None)
    import pwd  # noqa: PLC0415 - Windows, where all this is skipped, has none

    nobody = pwd.getpwnam("nobody")
    return _Account(nobody.pw_uid, nobody.pw_gid, [])


def give_away(path: Path) -> None:
    """Let the servers' account have a file, or a folder and what is in it."""
    account = _account()
    if account.user is None or account.group is None:
        return
    for one in (path, *path.rglob("*")):
        os.chown(one, account.user, account.group, follow_symlinks=False)


def new_folder(name: str) -> Path:
    """A folder for the servers' account. Not pytest's, which nobody else may enter."""
    folder = Path(tempfile.mkdtemp(prefix=f"qmc-{name}-"))
    give_away(folder)
    return folder


def run_program(*command: str | Path, folder: Path) -> None:
    """Run a program to its end, as the servers' account, in a folder that it may enter."""
    account = _account()
    ended = subprocess.run(  # noqa: S603 - our own command
        command,
        check=False,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        user=account.user,
        group=account.group,
        extra_groups=account.extra_groups,
        env=_environment(),
    )
    if ended.returncode:
        raise RuntimeError(f"{command[0]} ended with {ended.returncode}:\n{ended.stdout[-4000:]}")


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition, until it is clear that it hangs."""
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.005)


def find_program(name: str) -> str | None:
    """Where a server's program is: Debian keeps some where only root looks."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin")


def accepts(port: int) -> bool:
    """Whether anything listens on a port. A frozen server does: the kernel answers for it."""
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), 5):
        return True
    return False


class ServerProcess(ABC):
    """A server with a folder and a loopback port of its own, which it keeps when it starts again.

    A context manager: it runs inside, and nothing of it is left afterwards. Its methods block;
    from a coroutine, call them in a thread.
    """

    _stop_signal: signal.Signals = signal.SIGTERM
    _abandoned_signal = "KILL"
    """What it gets when the tests are killed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = new_folder(name)
        self.port = free_port()
        self._log = self.folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen: list[int] = []

    @abstractmethod
    def _command(self) -> Sequence[str | Path]:
        """What to run, after it has written all that this needs; called at each start."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether it is ready for clients."""

    @property
    def running(self) -> bool:
        """Whether its process lives, frozen or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process: the parent, where there are several."""
        assert self._process is not None, "never started"
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it is ready; one that is frozen goes on."""
        if self.running:
            self.thaw()
            return
        command = self._command()
        process = self._process = _spawner.submit(self._spawn, command).result()

        def is_ready() -> bool:
            if process.poll() is not None:
                log = self._log.read_text(errors="replace")[-4000:]
                raise RuntimeError(f"{self.name} ended with {process.returncode}:\n{log}")
            return self._answers()

        try:
            wait_until(is_ready, f"{self.name} does not answer")
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """End it as its administrator would, who waits for no client."""
        if not self.running:
            return
        self.thaw()
        self._signal(self._stop_signal)
        wait_until(lambda: not self.running, f"{self.name} does not stop")

    def restart(self) -> None:
        """Stop it and start it."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """Kill it with all its processes, and wait until they are gone: it can start at once."""
        if self._process is None:
            return
        children = self._hold()
        self._process.kill()
        _send(signal.SIGKILL, children)
        self._process.wait(_PATIENCE)
        self._frozen = []
        # A zombie holds nothing any more, and it is not we who bury the children.
        wait_until(
            lambda: all(_state(child) in _DEAD for child in children),
            f"processes of {self.name} outlive it",
        )

    def freeze(self) -> None:
        """Stop all its processes in the middle of what they do; clients can still connect."""
        self._frozen = self._hold()
        _send(signal.SIGSTOP, self._frozen)
        wait_until(
            lambda: all(_state(child) in _STOPPED for child in self._frozen),
            f"{self.name} does not freeze",
        )

    def thaw(self) -> None:
        """Let it go on, if it is frozen."""
        _send(signal.SIGCONT, self._frozen)
        self._frozen = []
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Kill it, and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _hold(self) -> list[int]:
        """Stop the parent, so that it starts no other child; its children."""
        self._signal(signal.SIGSTOP)
        wait_until(lambda: _state(self.pid) in _STOPPED, f"{self.name} does not stop")
        return _children(self.pid)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "never started"
        self._process.send_signal(number)

    def _write(self, name: str, text: str) -> Path:
        """A file in the folder that the server can read, whatever the umask is."""
        path = self.folder / name
        path.write_text(text)
        give_away(path)
        return path

    def _spawn(self, command: Sequence[str | Path]) -> subprocess.Popen[bytes]:
        account = _account()
        setpriv = shutil.which("setpriv")
        # It ends with the tests even where these are killed.
        guard = [setpriv, "--pdeathsig", self._abandoned_signal] if setpriv else []
        with self._log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own command
                [*guard, *command],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=account.user,
                group=account.group,
                extra_groups=account.extra_groups,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for pytest
            )


_given: set[int] = set()


def free_port() -> int:
    """A port that no other server has, and that no client is given for an outgoing connection.

    Clients that knock while the server is down could else take its port, or even connect to
    themselves.
    """
    ephemeral = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0]
    lowest = 10_000
    for _ in range(1000):
        port = lowest + secrets.randbelow(max(int(ephemeral) - lowest, 10_000))
        with socket.socket() as attempt, contextlib.suppress(OSError):
            attempt.bind((HOST, port))
            if port not in _given:
                _given.add(port)
                return port
    raise RuntimeError("no port is free")


def _environment() -> dict[str, str]:
    """No variable of a developer's changes what a server does."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


def _send(number: signal.Signals, pids: Iterable[int]) -> None:
    """Send a signal to those that are there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _children(parent: int) -> list[int]:
    """The processes whose parent this is, at the moment."""
    found: list[int] = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            fields = _fields(int(folder.name))
            if len(fields) > 1 and int(fields[1]) == parent:
                found.append(int(folder.name))
    return found


def _state(pid: int) -> str | None:
    """A letter as in `proc(5)`; None if there is no such process."""
    fields = _fields(pid)
    return fields[0] if fields else None


def _fields(pid: int) -> list[str]:
    """State, parent and so on: what follows the name, which may hold anything."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []

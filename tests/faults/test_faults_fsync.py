"""fsync is real: the kernel is asked to write before the platform is told that we have it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from attrs import define
from fault_platform import calls
from fault_scene import FULL, ROUNDS, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fault_scene import Scene, Server

pytest_plugins = ["fault_plugin"]

SYSCALLS = "fsync,fdatasync,recvfrom,recvmsg,read,sendto,sendmsg,write,writev"


@define
class Call:
    """A system call: the lines of the trace on which it begins and ends, and what it says."""

    begins: int
    ends: int
    text: str


@pytest.fixture
def strace(tmp_path: Path) -> list[str]:
    """What stands before the command of a traced process, which keeps its own process id."""
    program = shutil.which("strace")
    if program is None:
        pytest.skip("strace is not installed: nothing else sees the order of fsync and answer")
    trial = subprocess.run(  # noqa: S603 - ours
        [program, "-o", os.devnull, sys.executable, "-c", ""], capture_output=True, check=False
    )
    if trial.returncode:
        pytest.skip(f"strace may not trace here: {trial.stderr.decode()}")
    what = ["-D", "-f", "-y", "-s", "16", "-e", f"trace={SYSCALLS}"]
    return [program, *what, "-o", str(tmp_path / "trace")]


async def _calls(scene: Scene, server: Server) -> list[Call]:
    """What a traced process did, once it has ended."""
    await server.stop()
    trace = scene.folder / "trace"
    end = f"{server.process.pid} +++ exited with 0 +++"
    await until(lambda: end in re.sub(" +", " ", trace.read_text()), "the trace is written")
    found: list[Call] = []
    begun: dict[str, Call] = {}
    for number, line in enumerate(trace.read_text().splitlines()):
        process, _, text = line.partition(" ")
        text = text.strip()
        if text.endswith("<unfinished ...>"):
            begun[process] = Call(number, number, text.removesuffix("<unfinished ...>").rstrip())
            found.append(begun[process])
        elif text.startswith("<... "):
            begun[process].ends = number
            begun[process].text += text.partition("resumed>")[2]
        else:
            found.append(Call(number, number, text))
    return found


def _answers(trace: list[Call]) -> list[tuple[int, int]]:
    """For each answer of success: where its request had come, and where it began to leave."""
    found: list[tuple[int, int]] = []
    came: dict[str, int] = {}
    for call in trace:
        match = re.match(r"(\w+)\((\d+)<(?:TCP|socket)", call.text)
        if match is None:
            continue
        if match[1].startswith(("recv", "read")) and '"POST ' in call.text:
            came[match[2]] = call.ends
        elif '"HTTP/1.1 200' in call.text:
            found.append((came.pop(match[2]), call.begins))
    return found


def _syncs(trace: list[Call], suffix: str) -> list[Call]:
    pattern = re.compile(rf"f(?:data)?sync\(\d+<[^>]*{re.escape(suffix)}>\) += 0$")
    return [call for call in trace if pattern.match(call.text)]


def _check(answers: list[tuple[int, int]], syncs: list[Call]) -> None:
    """Between a request and its answer stands a whole sync: one begun earlier cannot hold it."""
    begins = [call.begins for call in syncs]
    early = [
        (came, left)
        for came, left in answers
        if not any(came < sync.begins and sync.ends < left for sync in syncs)
    ]
    assert not early, f"{len(early)} answers of {len(answers)} preceded their sync of {begins[:3]}"


async def test_one_at_a_time(
    scene: Scene, strace: list[str], figure: Callable[[str], None]
) -> None:
    """Each notification that comes alone has an fsync of its own before its answer."""
    number = 40
    server = await scene.start(*strace, handlers="none")
    await scene.platform.post(server.url, calls("alone", number), connections=1)
    trace = await _calls(scene, server)
    answers = _answers(trace)
    syncs = _syncs(trace, "qmc.db-wal")
    assert len(answers) == len(scene.platform.kept) == number
    _check(answers, syncs)
    between = [sync for sync in syncs if answers[0][0] < sync.begins < answers[-1][1]]
    assert len(between) >= number
    figure(f"fsync, one connection: {number} answers, {len(between)} fdatasyncs, none too late")


@pytest.mark.parametrize("handlers", ["none", "all"] if FULL else ["none"])
async def test_many_at_once(
    scene: Scene, strace: list[str], figure: Callable[[str], None], handlers: str
) -> None:
    """Notifications share an fsync; none is answered before the one that it has a part in."""
    number = min(2000, ROUNDS * 160)
    commits = scene.folder / "commits"
    server = await scene.start(*strace, handlers=handlers, commits=str(commits))
    await scene.platform.post(server.url, calls("many", number))
    trace = await _calls(scene, server)
    answers = _answers(trace)
    syncs = _syncs(trace, "qmc.db-wal")
    shared = [int(line) for line in commits.read_text().split()]
    assert len(answers) == len(scene.platform.kept) == sum(shared) == number
    assert len(syncs) >= len(shared)
    _check(answers, syncs)
    figure(
        f"fsync, 16 connections, handlers: {handlers}: {number} answers, {len(shared)} group "
        f"commits, {len(syncs)} fdatasyncs, none too late"
    )


async def test_spooled(scene: Scene, strace: list[str], figure: Callable[[str], None]) -> None:
    """What goes to the spool is as durable: an fsync of the spool file precedes each answer."""
    number = ROUNDS * 80
    server = await scene.start(*strace, handlers="none")
    with closing(scene.connect()) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        await scene.platform.post(server.url, calls("spooled", number))
    await until(lambda: not scene.not_in_store(), "the spool is forwarded")
    trace = await _calls(scene, server)
    answers = _answers(trace)
    syncs = _syncs(trace, ".spool")
    assert len(answers) == len(scene.platform.kept) == number
    _check(answers, syncs)
    figure(f"fsync of the spool: {number} answers, {len(syncs)} fsyncs, none too late")

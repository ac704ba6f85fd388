"""Ids of requests: no two are the same, in whatever threads and processes they are made."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from qmc_async.store.receipt_id import new_receipt_id


def test_threads_are_given_different_ones() -> None:
    """However many threads ask at once."""
    with ThreadPoolExecutor(8) as pool:
        made = [one.result() for one in [pool.submit(new_receipt_id) for _ in range(20_000)]]
    assert len(set(made)) == 20_000
    assert {len(one) for one in made} == {32}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_fork_makes_its_own() -> None:
    """A child that was forked, and its own child, go on with others than their parents."""
    program = (
        "import os\n"
        "from qmc_async.store.receipt_id import new_receipt_id\n"
        "new_receipt_id()\n"
        "for _ in range(2):\n"
        "    child = os.fork()\n"
        "    if child:\n"
        "        os.waitpid(child, 0)\n"
        "        print(new_receipt_id(), flush=True)\n"
        "        os._exit(0)\n"
        "print(new_receipt_id(), flush=True)\n"
    )
    done = subprocess.run(  # noqa: S603 - our own line
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    made = done.stdout.split()
    assert len(made) == len({one[:16] for one in made}) == 3

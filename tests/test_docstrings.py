"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import qmc_async

MODULES = [
    importlib.import_module(found.name)
    for found in pkgutil.walk_packages(qmc_async.__path__, "qmc_async.")
]
WITH_EXAMPLES = [
    module.__name__
    for module in MODULES
    if any(test.examples for test in doctest.DocTestFinder(exclude_empty=True).find(module))
]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_a_module(name: str) -> None:
    """Each example prints what it says."""
    outcome = doctest.testmod(importlib.import_module(name), raise_on_error=False)
    assert outcome.failed == 0
    assert outcome.attempted > 0


def test_examples_are_found() -> None:
    """The search for examples itself works: these modules are known to have some."""
    assert {"qmc_async.numbers", "qmc_async.signer"} <= set(WITH_EXAMPLES)

"""The marks that a requirement carries."""

from collections.abc import Callable
from typing import Any, TypeVar

import pytest

Test = TypeVar("Test", bound=Callable[..., Any])


def rejects(*names: str) -> Callable[[Test], Test]:
    """The mistakes (spec/mistakes/) that must fail this requirement."""
    return pytest.mark.rejects(*names)


def robust(test: Test) -> Test:
    """The second level: what only a careful engineer's version meets."""
    marked: Test = pytest.mark.robust(test)
    return marked


def same_weights(test: Test) -> Test:
    """Compares under equal parameters, so it needs the canonical parameter names."""
    marked: Test = pytest.mark.same_weights(test)
    return marked


def patience(seconds: float) -> Callable[[Test], Test]:
    """How long one call into the implementation may compute; for the few that train."""
    return pytest.mark.patience(seconds)


def one_device(test: Test) -> Test:
    """Runs on the device that `--devices` names, where -m gpu asks for it; gets it as `device`."""
    marked: Test = pytest.mark.gpu(test)
    return marked


def many_devices(test: Test) -> Test:
    """Runs in as many processes as `--devices` names, all at once, where -m gpu asks for it; each gets `ranks`."""
    marked: Test = pytest.mark.gpu(pytest.mark.multi_gpu(test))
    return marked

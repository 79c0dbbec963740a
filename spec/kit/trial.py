"""Tries one requirement on one implementation outside pytest's run: for the gates, the matrix and the diagnosis."""

import inspect
from collections.abc import Callable
from typing import Any

from spec.kit import draw, limit
from spec.kit.catalogue import Requirement
from spec.kit.plug import Implementation
from spec.kit.verdict import CannotCheck, Endless, NotOffered


def attempt(requirement: Requirement, impl: Implementation, **fixtures: Any) -> BaseException | None:
    """The exception that the requirement ends with; None where it is met. A KeyboardInterrupt goes through."""
    for mark in getattr(requirement.function, "pytestmark", []):
        if mark.name == "patience":
            impl.log.seconds = mark.args[0]
    try:
        with limit.unhurried():
            if hasattr(requirement.function, "__wrapped__"):
                requirement.function(impl, **fixtures)
            else:
                draw.run_case(impl.log, requirement.function, fixtures, impl)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except NotOffered as option:
        return CannotCheck(f"not offered: {option}")
    except BaseException as error:
        return error
    return None


def fixtures_of(test: Callable[..., None]) -> list[str]:
    """What a requirement asks for besides `impl` and its drawn case."""
    return [name for name in inspect.signature(test).parameters if name != "impl"]


def is_rejection(error: BaseException | None, impl: Implementation) -> bool:
    """Whether a requirement failed as it should: by its own assertion, or by an error inside the implementation."""
    return isinstance(error, AssertionError | Endless) or impl.log.crashed(error)

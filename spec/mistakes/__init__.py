"""Named wrong versions: requirements must reject them, and a learner's result that equals one's is named by it."""

from collections.abc import Callable
from typing import Any, TypeVar

Wrong = TypeVar("Wrong", bound=Callable[..., Any])


def instead_of(right: Callable[..., Any]) -> Callable[[Wrong], Wrong]:
    """Marks a wrong version of a function or class of the reference."""

    def mark(wrong: Wrong) -> Wrong:
        wrong.instead_of = right.__name__  # type: ignore[attr-defined]
        return wrong

    return mark

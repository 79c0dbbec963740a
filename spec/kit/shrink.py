"""The smallest failing case of a requirement, by Hypothesis."""

import contextlib
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, errors, given, settings
from hypothesis import strategies as st

from spec.kit import draw

SEARCH = 40  # cases in which Hypothesis looks for one that fails, before it shrinks it


@st.composite
def cases(choose: st.DrawFn, patterns: dict[str, Any]) -> dict[str, Any]:
    """All cases of a requirement: sizes and choices are drawn, values follow from them."""
    names = list(dict.fromkeys(name for pattern in patterns.values() for name in draw.axes_of(pattern)))
    sizes: dict[str, int] = {}
    for name in names:
        sizes[name] = choose(st.sampled_from(draw.free(name, names, sizes)))
    lists = [pattern if isinstance(pattern, list) else [0] for pattern in patterns.values()]
    return draw.case_of(patterns, sizes, [choose(st.integers(0, len(items) - 1)) for items in lists])


def smallest(example: Callable[[dict[str, Any]], None], name: str, patterns: dict[str, Any]) -> None:
    """Raises what the smallest failing case raises; comes back where Hypothesis meets none."""

    def attempt(case: dict[str, Any]) -> None:
        example(case)

    attempt.__name__ = name  # Hypothesis derives its choices from it
    quiet = settings(
        max_examples=SEARCH, phases=[Phase.generate, Phase.shrink], deadline=None, derandomize=True, database=None,
        report_multiple_bugs=False, verbosity=Verbosity.quiet, suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    with contextlib.suppress(errors.Flaky):  # a failure that hangs on the calls before it has no smaller case
        quiet(given(case=cases(patterns))(attempt))()

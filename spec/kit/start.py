"""Asks which parameter's start is at fault, where right code fails with the starts of a learner's modules.

The random numbers of two starts differ, so their results cannot be compared; how large the numbers are can.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from spec.kit.plug import Implementation
from spec.kit.record import Call, Made

Run = Callable[..., tuple[list[Call], BaseException | None]]
MOST = 40  # parameters that are tried
APART = 1.5  # how many times as large a start is another one
ALIKE = 1.25


@dataclass(frozen=True)
class Culprit:
    """A parameter that passes with our start and not with the learner's, and the standard deviations of both."""

    parameter: str
    theirs: float
    ours: float

    def __str__(self) -> str:
        return (
            "Right code fails as well with the weights that yours starts from, and passes with another start of "
            f"{self.parameter}: the standard deviation of yours is {self.theirs:.2g}, that of ours {self.ours:.2g}."
        )


def culprits(rerun: Run, right: Implementation, case: tuple[Any, ...], led: list[Made]) -> list[Culprit]:
    """The parameters that alone make right code fail, of `led`: our modules with the starts of the learner's."""
    rerun(right, *case, [], keep=True)
    own = right.log.made
    if not led or len(own) != len(led) or not all(each.kept for each in [*own, *led]):
        return []
    found = []
    for name in list(led[0].start)[:MOST]:
        leaders = [
            replace(mine, start=mine.start | {name: ours.start[name]} if name in ours.start else mine.start)
            for mine, ours in zip(led, own, strict=True)
        ]
        if rerun(right, *case, leaders)[1] is None:
            found.append(Culprit(name, _size(led[0], name), _size(own[0], name)))
    return found


def makers(rerun: Run, found: list[Culprit], case: tuple[Any, ...], tried: dict[str, Implementation]) -> Iterator[str]:
    """The names of those that fail by themselves, and start what is at fault as large as the learner does."""
    for name, suspect in tried.items():
        _, end = rerun(suspect, *case, [], keep=True)
        made = suspect.log.made
        if end is not None and made and all(_starts_alike(made[0], each) for each in found):
            yield name


def _starts_alike(made: Made, culprit: Culprit) -> bool:
    if culprit.parameter not in made.start:
        return False
    size = _size(made, culprit.parameter)
    return _times(size, culprit.theirs) < ALIKE and _times(size, culprit.ours) > APART


def _size(made: Made, parameter: str) -> float:
    return made.start[parameter].float().std(correction=0).item()


def _times(one: float, other: float) -> float:
    return max(one, other) / max(min(one, other), 1e-12)

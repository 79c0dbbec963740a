"""Which of the names of a failing requirement stand beside what became of the others."""

import contextlib
import functools
import io
from collections.abc import Sequence

from spec.kit import catalogue
from spec.kit.catalogue import ROOT, Requirement
from spec.kit.plug import Implementation
from spec.kit.story import MET, UNMET, Story
from spec.kit.trial import attempt, fixtures_of


def suspected(story: Story, others: Sequence[Story] = ()) -> list[str]:
    """The diagnoses that stand, at most three.

    Where every one is contradicted by a requirement that is met, a single one stands all the same: it is the learner's
    in this requirement, and made in a way of their own in the other. Of several, none is.
    """
    out = _ruled_out(others)
    names = [name for name in story.looks_like if name not in out]
    if not names and len(story.looks_like) == 1:
        names = story.looks_like
    if len(names) > 1:
        names = [name for name in names if not _ends_otherwise(name, others)] or names
    named = [catalogue.mistake(name) for name in names]
    return [f"{each.diagnosis} ({each.name})" for each in named if each][:3]


def _ruled_out(stories: Sequence[Story]) -> set[str]:
    """Mistakes that are not the learner's: a requirement that rejects them is met, and calls what they are made in.

    Where it calls attention alone, say, it does not tell what attention_weights does: the two may share nothing.
    """
    met = [_requirement(story) for story in stories if story.state == MET]
    return {name for requirement in met for name in requirement.rejects if _concerns(requirement, name)}


def _ends_otherwise(name: str, stories: Sequence[Story]) -> bool:
    """Whether the learner's code breaks in a requirement where the mistake only returns what is wrong, or the reverse.

    A mask of rank 3 that is read as heads, say, fits as many sequences as there are heads, as one that is repeated in
    the wrong order does; with another number only one of them breaks.
    """
    failed = [(_requirement(story), story.crashed) for story in stories if story.state == UNMET and not story.broken]
    return any(
        _crashes(requirement, name) is not crashed
        for requirement, crashed in failed
        if name in requirement.rejects and _concerns(requirement, name) and _is_short(requirement)
    )


def _is_short(requirement: Requirement) -> bool:
    return not requirement.trains and not fixtures_of(requirement.function)


@functools.cache
def _crashes(requirement: Requirement, name: str) -> bool:
    impl = Implementation(f"mistake:{name}", ROOT)
    with contextlib.redirect_stdout(io.StringIO()):  # some mistakes print
        error = attempt(requirement, impl)
    return impl.log.crashed(error)


def _concerns(requirement: Requirement, name: str) -> bool:
    """Whether a requirement calls the exercise that the mistake is made in."""
    mistake = catalogue.mistakes(requirement.chapter).get(name)
    return mistake is None or mistake.of in requirement.uses


def _requirement(story: Story) -> Requirement:
    return catalogue.requirements(story.chapter)[story.name]

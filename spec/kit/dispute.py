"""Where several mistakes explain one failure, other requirements are asked which of them it is.

As many masks as heads, say, fit where they are read as heads and where they are repeated in the wrong order: with
another number of masks the first breaks and the second does not.
"""

import contextlib
import functools
import io
import itertools
from collections.abc import Iterator

from spec.kit import catalogue, diagnose
from spec.kit.catalogue import ROOT, Requirement
from spec.kit.plug import Implementation
from spec.kit.trial import attempt, fixtures_of
from spec.kit.verdict import CannotCheck, Endless

MOST = 6  # requirements that are asked


def settled(names: list[str], requirement: Requirement, impl: Implementation) -> list[str]:
    """Of several names those that explain the implementation's other failures as well; all where these do not tell."""
    for other in _witnesses(requirement, names):
        if len(names) < 2:
            break
        error = _quietly(other, impl)
        if error is None or isinstance(error, CannotCheck | NotImplementedError | Endless):
            continue
        breaks = impl.log.crashed(error)
        explaining = diagnose.explain(other, impl, among=names)
        names = explaining or [name for name in names if _breaks(other, name) == breaks] or names
    return names


def _witnesses(requirement: Requirement, names: list[str]) -> Iterator[Requirement]:
    """The chapter's other requirements that reject one of the mistakes, and take no time; first those not of all."""
    others = (other for other in catalogue.requirements(requirement.chapter).values() if other.id != requirement.id)
    short = (other for other in others if not other.trains and not fixtures_of(other.function))
    asked = (other for other in short if set(names) & set(other.rejects))
    return itertools.islice(sorted(asked, key=lambda other: set(names) <= set(other.rejects)), MOST)


@functools.cache
def _breaks(requirement: Requirement, name: str) -> bool:
    """Whether a mistake ends a requirement with an error of its own, and not with a wrong result."""
    impl = Implementation(f"mistake:{name}", ROOT)
    return impl.log.crashed(_quietly(requirement, impl))


def _quietly(requirement: Requirement, impl: Implementation) -> BaseException | None:
    usual, impl.log.seconds = impl.log.seconds, min(diagnose.SECONDS, impl.log.seconds)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # some mistakes print
            return attempt(requirement, impl)
    finally:
        impl.log.seconds = usual

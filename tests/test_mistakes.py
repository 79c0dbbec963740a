"""Every mistake is rejected by each requirement that lists it, and by a failure of the requirement's own."""

import pytest

from spec import CHAPTERS
from spec.kit import catalogue
from spec.kit.catalogue import ROOT, Mistake
from spec.kit.plug import Implementation
from spec.kit.trial import attempt, fixtures_of, is_rejection

MISTAKES = [mistake for chapter in CHAPTERS for mistake in catalogue.mistakes(chapter).values()]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: f"{mistake.chapter}.{mistake.name}")
def test_a_mistake_is_rejected_by_those_that_list_it(mistake: Mistake) -> None:
    """No requirement is empty."""
    impl = Implementation(f"mistake:{mistake.name}", ROOT)
    for requirement in catalogue.requirements(mistake.chapter).values():
        if mistake.name in requirement.rejects and not fixtures_of(requirement.function):
            assert is_rejection(attempt(requirement, impl), impl), f"{requirement.id} does not notice {mistake.name}"

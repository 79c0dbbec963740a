"""Which of the names of a failing requirement stand beside what became of the others."""

from collections.abc import Sequence

from spec.kit import catalogue
from spec.kit.story import MET, Story


def suspected(story: Story, others: Sequence[Story] = ()) -> list[str]:
    """The diagnoses that stand, at most three.

    Where every one is contradicted by a requirement that is met, a single one stands all the same: it is the learner's
    in this requirement, and made in a way of their own in the other. Of several, none is.
    """
    out = _ruled_out(others)
    names = [name for name in story.looks_like if name not in out]
    if not names and len(story.looks_like) == 1:
        names = story.looks_like
    named = [catalogue.mistake(name) for name in names]
    return [f"{each.diagnosis} ({each.name})" for each in named if each][:3]


def _ruled_out(stories: Sequence[Story]) -> set[str]:
    """Mistakes that are not the learner's: a requirement that rejects them is met, and calls what they are made in.

    Where it calls attention alone, say, it does not tell what attention_weights does: the two may share nothing.
    """
    met = [catalogue.requirements(story.chapter)[story.name] for story in stories if story.state == MET]
    return {
        name
        for requirement in met
        for name in requirement.rejects
        if (mistake := catalogue.mistakes(requirement.chapter).get(name)) is None or mistake.of in requirement.uses
    }

"""How often the diagnosis names a mistake: `python -m tests.benchmarks.naming [CHAPTER …]`.

Each mistake runs as a learner's implementation. What counts is what the learner's screen says: the first requirement
that fails, and the names that it shows with it. A name is right where it is the mistake's own; others beside it are
mistakes that no call of that requirement tells from it. All of it runs under pytest, whose rewritten assertions say in
words what failed, as they do on the screen.
"""

import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from spec import CHAPTERS
from spec.kit import catalogue, draw, naming, story
from spec.kit.catalogue import ROOT, Mistake
from spec.kit.plug import Implementation
from spec.kit.trial import attempt, fixtures_of
from spec.kit.verdict import CannotCheck
from tests.running import WORKERS

OWN, BESIDE, OTHER, NONE = "its own name alone", "its own name beside others", "other names", "no name"


def named(mistake: Mistake) -> list[str] | None:
    """The names on the screen of a learner who made it; None where its chapter's core lets it pass."""
    impl = Implementation(f"mistake:{mistake.name}", ROOT)
    stories: list[story.Story] = []
    failed: story.Story | None = None
    requirements = catalogue.requirements(mistake.chapter).values()
    for requirement in sorted(requirements, key=lambda each: each.robust):
        if fixtures_of(requirement.function) or (failed is not None and requirement.trains):
            continue  # what trains for seconds adds nothing to a name
        impl.log.seconds = 10
        error = attempt(requirement, impl)
        wrong = error is not None and not isinstance(error, CannotCheck)
        told = story.tell(requirement, impl, error, name=wrong and failed is None)
        stories.append(told)
        failed = failed or (told if told.state == story.UNMET else None)
    if failed is None:
        return None
    return [text.rpartition("(")[2].rstrip(")") for text in naming.suspected(failed, stories)]


def verdict(mistake: Mistake) -> tuple[str, list[str]]:
    """One of the four, or that nothing failed; and the names of other mistakes that are shown."""
    names = named(mistake)
    if names is None:
        return "passes", []
    others = [name for name in names if name != mistake.name]
    if mistake.name in names:
        return BESIDE if others else OWN, others
    return OTHER if others else NONE, others


def judged(mistakes: list[Mistake], chapter: str) -> Iterator[tuple[str, str, str]]:
    """(mistake, verdict, other names) as they come, by forked processes; one that dies has no verdict."""
    pipes = []
    for worker in range(WORKERS):
        reader, writer = os.pipe()
        if os.fork() == 0:
            for mistake in mistakes[worker::WORKERS]:
                said, names = verdict(mistake)
                os.write(writer, f"{mistake.name}\t{said}\t{' '.join(names)}\n".encode())
            os._exit(0)
        os.close(writer)
        pipes.append(os.fdopen(reader))
    for line in track((line for pipe in pipes for line in pipe), chapter, total=len(mistakes)):
        name, said, others = line.rstrip("\n").split("\t")
        yield name, said, others
    for _ in pipes:
        os.wait()


def report(chapters: list[str]) -> None:
    """Prints the table, and the mistakes that are not named."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    draw.options.shrink = True
    show = Console(highlight=False, soft_wrap=True)
    table = Table("chapter", "mistakes", OWN, BESIDE, OTHER, NONE)
    total: Counter[str] = Counter()
    for chapter in chapters or CHAPTERS:
        count: Counter[str] = Counter()
        for name, said, others in judged(list(catalogue.mistakes(chapter).values()), chapter):
            count[said] += 1
            if said != OWN:
                show.print(f"  {name}: {said} {others}")
        total += count
        table.add_row(chapter, str(count.total()), *(str(count[kind]) for kind in (OWN, BESIDE, OTHER, NONE)))
    table.add_row("all", str(total.total()), *(str(total[kind]) for kind in (OWN, BESIDE, OTHER, NONE)))
    show.print(table)


class InsteadOfTests:
    """What pytest runs here, once its hook that rewrites assertions stands."""

    @staticmethod
    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main() -> int:
        """The report of the chapters that the command names."""
        report(sys.argv[1:])
        return 0


if __name__ == "__main__":
    sys.exit(pytest.main(["-W", "ignore"], plugins=[InsteadOfTests]))

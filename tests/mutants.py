"""Mechanical mutants of the reference against the specification: `python -m tests.mutants [CHAPTER …]`.

Cosmic Ray makes the mutants, one changed operator, number, comparison or constant each; a forked process holds each to
the requirements of its own chapter. What survives is printed: it asks for a requirement, or for a reason to be spared
(`tests/spared.py`).
"""

import os
import shutil
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import unified_diff
from itertools import count
from pathlib import Path

import torch
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names
from rich.console import Console
from rich.progress import Progress

from spec import CHAPTERS
from spec.kit import catalogue, draw
from spec.kit.catalogue import ROOT
from spec.kit.plug import Implementation
from spec.kit.trial import attempt, fixtures_of
from spec.kit.verdict import Broken, CannotCheck
from tests.running import WORKERS
from tests.spared import reason

NEED_NAMES = ("VariableReplacer", "VariableInserter")  # they put in names that the run has to choose
SECONDS = 120
KILLED, SURVIVED, NO_CODE, SPARED = "killed", "survived", "cannot be imported", "spared"


@dataclass(frozen=True)
class Mutant:
    """A chapter of the reference with one thing changed."""

    chapter: str
    operator: str
    code: str

    @property
    def difference(self) -> str:
        """The changed lines."""
        lines = unified_diff(original(self.chapter).splitlines(), self.code.splitlines(), n=0, lineterm="")
        return "\n".join(line for line in lines if not line.startswith(("---", "+++")))


def original(chapter: str) -> str:
    """The reference's source."""
    return (ROOT / "reference" / f"{chapter}.py").read_text()


def mutants(chapter: str) -> Iterator[Mutant]:
    """Every mutant of a chapter, no two alike."""
    seen = {original(chapter)}
    for name in operator_names():
        if name.endswith(NEED_NAMES):
            continue
        for occurrence in count():
            try:
                code = mutate_code(original(chapter), get_operator(name)(), occurrence)
            except AttributeError:  # Cosmic Ray stumbles over an `except` with several types
                continue
            if code is None:
                break
            if code not in seen:
                seen.add(code)
                yield Mutant(chapter, name.removeprefix("core/"), code)


def verdict(mutant: Mutant, folder: Path) -> str:
    """What its chapter's requirements say, the first that fails first."""
    shutil.copytree(ROOT / "reference", folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / f"{mutant.chapter}.py").write_text(mutant.code)
    impl = Implementation(str(folder))
    for requirement in catalogue.requirements(mutant.chapter).values():
        if fixtures_of(requirement.function):
            continue
        impl.log.seconds = 5
        error = attempt(requirement, impl)
        if isinstance(error, Broken):
            return NO_CODE
        if error is not None and not isinstance(error, CannotCheck):
            return KILLED
    return SURVIVED


def judge(mutant: Mutant, folder: Path) -> int:
    """Starts a process that ends with the verdict; a mutant that never ends is ended, and counts as killed."""
    child = os.fork()
    if child:
        return child
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)  # the limit of a call has the other timers
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    try:
        os._exit((KILLED, SURVIVED, NO_CODE).index(verdict(mutant, folder)))
    except BaseException:
        os._exit(0)


def main(chapters: list[str]) -> None:
    """Judges all mutants, prints the survivors and the score."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    draw.options.shrink = False
    show = Console(highlight=False, soft_wrap=True)
    for chapter in chapters or CHAPTERS:
        catalogue.requirements(chapter)
        results, running = Counter[str](), dict[int, Mutant]()
        queue = list(mutants(chapter))
        with tempfile.TemporaryDirectory() as scratch, Progress(console=show) as progress:
            task = progress.add_task(chapter, total=len(queue))
            for number, mutant in enumerate([*queue, *[None] * WORKERS]):
                if len(running) == WORKERS or (mutant is None and running):
                    child, status = os.wait()
                    code = os.waitstatus_to_exitcode(status)
                    result = (KILLED, SURVIVED, NO_CODE)[code] if code >= 0 else KILLED
                    done = running.pop(child)
                    if result == SURVIVED and reason(chapter, done.difference):
                        result = SPARED
                    results[result] += 1
                    progress.advance(task)
                    if result == SURVIVED:
                        show.print(f"[bold]{chapter}[/bold] {done.operator}", markup=True)
                        show.print(done.difference, markup=False)
                if mutant is not None:
                    running[judge(mutant, Path(scratch) / f"reference_{number}")] = mutant
        show.print(f"{chapter}: {', '.join(f'{results[what]} {what}' for what in (KILLED, SPARED, SURVIVED, NO_CODE))}")


if __name__ == "__main__":
    main(sys.argv[1:])

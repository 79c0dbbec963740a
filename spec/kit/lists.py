"""`--requirements` and `--mistakes`: the specification, printed."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from spec import CHAPTERS
from spec.kit import catalogue


def show(requirements: bool, paths: Sequence[str]) -> None:
    """Prints the requirements or the mistakes of the chapters that the paths name, or of all."""
    console = Console(highlight=False)
    named = [chapter for chapter in CHAPTERS if chapter in {Path(path.partition("::")[0]).stem for path in paths}]
    for chapter in named or CHAPTERS:
        console.print(Text(f"\n{chapter}", "bold"))
        (_requirements if requirements else _mistakes)(chapter, console)


def _requirements(chapter: str, console: Console) -> None:
    for requirement in catalogue.requirements(chapter).values():
        star = "★ " if requirement.robust else ""
        console.print(
            Text.assemble(
                "  ", (f"{star}{requirement.name}", "cyan"), ("  = weights" if requirement.same_weights else "", "dim")
            )
        )
        console.print(Text(f"      {requirement.sentence}"), soft_wrap=True)
        if requirement.source:
            console.print(Text(f"      {requirement.source}", "dim"), soft_wrap=True)


def _mistakes(chapter: str, console: Console) -> None:
    rejecting = catalogue.requirements(chapter).values()
    for name, mistake in catalogue.mistakes(chapter).items():
        console.print(Text.assemble("  ", (name, "cyan"), (f"  instead of {mistake.of}", "dim")))
        console.print(Text(f"      {mistake.diagnosis}"), soft_wrap=True)
        by = ", ".join(requirement.name for requirement in rejecting if name in requirement.rejects)
        console.print(Text(f"      rejected by {by or 'nothing'}", "dim"), soft_wrap=True)

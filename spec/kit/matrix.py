"""`python -m spec.kit.matrix CHAPTER …`: which requirement rejects which mistake, for whoever writes either."""

import sys
from pathlib import Path

import torch
from rich.console import Console

from spec import CHAPTERS
from spec.kit import catalogue, draw
from spec.kit.plug import Implementation
from spec.kit.trial import attempt, fixtures_of, is_rejection


def rejections(chapter: str) -> dict[str, list[tuple[str, bool]]]:
    """{mistake: [(requirement, whether by its own assertion)]}, the reference's own failures under 'reference'."""
    table: dict[str, list[tuple[str, bool]]] = {}
    for name in ["reference", *catalogue.mistakes(chapter)]:
        impl = Implementation(name if name == "reference" else f"mistake:{name}", Path.cwd())
        for requirement in catalogue.requirements(chapter).values():
            if fixtures_of(requirement.function):
                continue
            error = attempt(requirement, impl)
            if error is not None:
                table.setdefault(name, []).append((requirement.name, is_rejection(error, impl)))
    return table


def main(chapters: list[str]) -> None:
    """Prints the table; an exclamation mark follows a requirement that broke instead of failing."""
    torch.set_num_threads(1)
    draw.options.shrink = False
    show = Console(width=160).print
    for chapter in chapters or CHAPTERS:
        table = rejections(chapter)
        show(f"[bold]{chapter}[/bold]  reference fails: {table.get('reference', 'nothing')}")
        for name, mistake in catalogue.mistakes(chapter).items():
            found = table.get(name, [])
            listed = [r.name for r in catalogue.requirements(chapter).values() if name in r.rejects]
            hits = ", ".join(("" if r in listed else "+") + r + ("" if clean else "!") for r, clean in found)
            lost = ", ".join(f"[red]−{r}[/red]" for r in listed if r not in [hit for hit, _ in found])
            show(f"  {name} ({mistake.of}): {hits or '[red]REJECTED BY NOTHING[/red]'} {lost}", soft_wrap=True)
        toothless = [
            r.name
            for r in catalogue.requirements(chapter).values()
            if not any(r.name == hit and name != "reference" for name, hits in table.items() for hit, _ in hits)
        ]
        show(f"  requirements that reject nothing: {toothless or 'none'}")


if __name__ == "__main__":
    main(sys.argv[1:])

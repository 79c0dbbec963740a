"""`python -m spec.shapes FILE…`: the check without mypy, and how much of each file it could follow."""

import argparse
import os
import sys
from pathlib import Path

from .engine import Engine
from .sources import Sources, name_of, root_of


def main(arguments: list[str] | None = None) -> int:
    """Print the problems and the report; 1 if there are problems."""
    parser = argparse.ArgumentParser(
        prog="python -m spec.shapes", description="Check tensor shapes before anything runs."
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--unknown", action="store_true", help="list the lines with an expression of unknown shape")
    options = parser.parse_args(arguments)
    files = [f for path in options.files for f in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    return max([report(path, options.unknown) for path in files], default=0)


def report(path: Path, list_unknown: bool) -> int:
    """Check one file."""
    name = name_of(path)
    engine = Engine(Sources([root_of(str(path), name), os.getcwd()]).load)
    if engine.module(name) is None:
        print(f"{path}: cannot be read")
        return 1
    problems = engine.check_module(name)
    for problem in sorted(problems, key=lambda p: (p.line, p.column)):
        print(f"{path}:{problem.line}:{problem.column + 1}: {problem.message}  [{problem.code}]")
    found = {place: known for place, known in engine.found.items() if place[0] == name}
    print(f"{path}: {sum(found.values())} of {len(found)} tensor expressions have a known shape")
    if list_unknown:
        lines = sorted({place[1] for place, known in found.items() if not known})
        print(f"  unknown in lines {', '.join(map(str, lines)) or '(none)'}")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())

"""Right code is silent; every mistake of the table is named, with its code, at its line."""

from pathlib import Path

import pytest

from spec.shapes.engine import Engine
from spec.shapes.interpreter import Problem
from spec.shapes.sources import Sources

from .bugs import BUGS, CATALOGUE, Bug

RIGHT = Path(__file__).parent / "right"
FILES = sorted(path.stem for path in RIGHT.glob("*.py") if path.stem != "__init__")
SOURCES = Sources([str(RIGHT.parent)])


@pytest.fixture(autouse=True)
def _loud(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception inside the checker fails the test instead of being swallowed."""
    monkeypatch.setattr("spec.shapes.interpreter.DEBUG", True)


def problems(file: str, source: str | None = None) -> list[Problem]:
    """What the engine says of a right file, perhaps edited."""
    module = f"right.{file}"

    def load(name: str) -> tuple[str, str] | None:
        return (f"{file}.py", source) if name == module and source is not None else SOURCES.load(name)

    return Engine(load).check_module(module)


@pytest.mark.parametrize("file", FILES)
def test_right_code_is_silent(file: str) -> None:
    """No alarm on right code, in any style."""
    assert problems(file) == []


@pytest.mark.parametrize("bug", [*CATALOGUE, *BUGS], ids=lambda bug: f"{bug.file}: {bug.new.strip()[:60]}")
def test_mistake_is_named(bug: Bug) -> None:
    """A mistake is named with its code, at its line."""
    right = (RIGHT / f"{bug.file}.py").read_text(encoding="utf-8")
    assert right.count(bug.old) >= 1, "the edit does not apply"
    wrong = right.replace(bug.old, bug.new, 1)
    start = right.index(bug.old)
    at = start if bug.where is None else wrong.find(bug.where)
    assert at >= 0, "the line is not there"
    lines = [line for line, text in enumerate(wrong.splitlines(), start=1) if (bug.where or "\0") in text]
    first = wrong.count("\n", 0, start) + 1
    expected = set(lines) if bug.where else set(range(first, first + bug.new.count("\n") + 1))
    found = problems(bug.file, wrong)
    assert {problem.line for problem in found if problem.code == bug.code} & expected, found

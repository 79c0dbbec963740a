"""Right code is silent; every mistake of the table is named, with its code, at its line."""

import ast
from pathlib import Path

import pytest

from spec.shapes.__main__ import main
from spec.shapes.engine import Engine
from spec.shapes.expressions import EXPRESSIONS
from spec.shapes.interpreter import Problem
from spec.shapes.sources import Sources, name_of, root_of

from .bugs import BUGS, CATALOGUE, Bug
from .mutate import measure, share

ROOT = Path(__file__).parents[2]
OURS = ("reference", "student", "spec")

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


PROJECT = [
    *(ROOT / "tests/variations").glob("*.py"),
    *(p for d in OURS for p in (ROOT / d).rglob("*.py") if "shapes" not in p.parts),
]


@pytest.mark.parametrize("path", PROJECT, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_project_is_silent(path: Path) -> None:
    """No alarm on the reference, the exercises, the requirements and the variations."""
    name = name_of(path)
    assert Engine(Sources([root_of(str(path), name), str(ROOT)]).load).check_module(name) == []


def test_a_failure_of_the_checker_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception inside is swallowed, and what follows is unknown; the debug variable lets it through."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setitem(EXPRESSIONS, ast.Call, broken)
    with pytest.raises(ZeroDivisionError):
        problems("blocks")
    monkeypatch.setattr("spec.shapes.interpreter.DEBUG", False)
    assert problems("blocks") == []


def test_a_shape_that_cannot_be_read_is_named() -> None:
    """With a code of its own, at the annotation."""
    source = (
        "from jaxtyping import Float\nfrom torch import Tensor\n"
        'def f(x: Float[Tensor, "*a *b"], y: Float[Tensor, "3x"]): ...\n'
    )
    found = problems("blocks", source)
    assert {(problem.line, problem.code) for problem in found} == {(3, "shape-annotation")}


def test_the_report_counts_known_shapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The small program prints problems and how much it could follow, so that silence is not taken for proof."""
    file = tmp_path / "learner.py"
    file.write_text((RIGHT / "positions.py").read_text(encoding="utf-8"), encoding="utf-8")
    assert main([str(file)]) == 0
    assert " tensor expressions have a known shape" in capsys.readouterr().out
    file.write_text(file.read_text(encoding="utf-8").replace("flatten(-2)", "flatten(-3)"), encoding="utf-8")
    assert main([str(file), "--unknown"]) == 1
    printed = capsys.readouterr().out
    assert "[shape]" in printed
    assert "unknown in lines" in printed


def test_mechanical_mistakes_are_caught() -> None:
    """A sample of the mutants; `python -m tests.shapes.mutate` judges all of them."""
    caught, every = share(measure(RIGHT, limit=24))
    assert caught >= 0.8 * every > 5

"""The specification lints itself: sentences, stubs, signatures, and no requirement or mistake without the other."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from spec import CHAPTERS
from spec.kit import catalogue
from spec.kit.catalogue import ROOT, Requirement
from spec.kit.plug import place
from spec.kit.trial import fixtures_of

REQUIREMENTS = [each for chapter in CHAPTERS for each in catalogue.requirements(chapter).values()]
EXERCISES = [each for chapter in CHAPTERS for each in catalogue.exercises(chapter).values()]
MISTAKES = [each for chapter in CHAPTERS for each in catalogue.mistakes(chapter).values()]


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda each: each.id)
def test_a_requirement_is_a_sentence_a_reason_and_a_hint(requirement: Requirement) -> None:
    """A short fact without 'should', why, a hint; it rejects something and uses something."""
    assert re.fullmatch(r"(?:[^.]|\.(?=\S))+\.", requirement.sentence), "one sentence, ended by a period"
    assert len(requirement.sentence) <= 140
    assert "should" not in requirement.sentence
    assert requirement.hint
    assert requirement.rejects or fixtures_of(requirement.function)  # on the corpus: too long to run a mistake
    assert requirement.uses


def test_sentences_are_unique() -> None:
    """No two requirements say the same."""
    sentences = [each.sentence for each in REQUIREMENTS]
    assert len(set(sentences)) == len(sentences)


def test_no_two_mistakes_have_one_name() -> None:
    """`--impl=mistake:NAME` names one, whatever its chapter."""
    names = [name for chapter in CHAPTERS for name in catalogue.mistakes(chapter)]
    assert sorted(set(names)) == sorted(names)


def test_every_exercise_has_a_requirement() -> None:
    """What the curriculum names is held to something."""
    used = {name for requirement in REQUIREMENTS for name in requirement.uses}
    assert {each.name for each in EXERCISES} <= used | {"Settings"}


def test_every_mistake_is_listed_by_its_own_chapter() -> None:
    """A mistake that no requirement lists would be a mistake that nobody rejects."""
    for mistake in MISTAKES:
        lists = [each for each in catalogue.requirements(mistake.chapter).values() if mistake.name in each.rejects]
        assert lists, f"{mistake.name} is listed by no requirement of {mistake.chapter}"


def test_every_listed_mistake_exists() -> None:
    """No decorator names a mistake of another chapter, or one that was renamed."""
    for requirement in REQUIREMENTS:
        assert set(requirement.rejects) <= set(catalogue.mistakes(requirement.chapter)), requirement.id


def test_every_chapter_has_ten_mistakes() -> None:
    """Enough to know the ways in which learners go wrong."""
    assert all(len(catalogue.mistakes(chapter)) >= 10 for chapter in CHAPTERS)


def test_diagnoses_are_written_for_learners() -> None:
    """A mistake's docstring says what is wrong, shortly, and is unique."""
    texts = [each.diagnosis for each in MISTAKES]
    assert all(20 < len(text) < 260 for text in texts)
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_stubs_are_the_reference_without_its_bodies(chapter: str) -> None:
    """Each stub is unsolved, has one TODO, and the signature and annotations of the reference."""
    reference, student = (importlib.import_module(f"{tree}.{chapter}") for tree in ("reference", "student"))
    unwritten = place("student", ROOT).unwritten(chapter)
    source = Path(str(student.__file__)).read_text(encoding="utf-8")
    names = [name for name in catalogue.exercises(chapter) if not _is_data(getattr(reference, name))]
    assert set(names) <= unwritten
    assert source.count("TODO") == len(names)
    for name in names:
        assert _signature(getattr(student, name)) == _signature(getattr(reference, name)), name


def _is_data(exercise: object) -> bool:
    return hasattr(exercise, "__dataclass_fields__")


def _signature(exercise: object) -> list[str]:
    methods = [exercise]
    if inspect.isclass(exercise):
        methods = [
            m
            for n, m in vars(exercise).items()
            if inspect.isfunction(m) and (n[0] != "_" or n in ("__init__", "__len__"))
        ]
    texts = (f"{getattr(m, '__name__', '')}{inspect.signature(m)}" for m in methods if callable(m))
    return sorted(text.replace("student.", "reference.") for text in texts)  # fmt: skip


@pytest.mark.parametrize("tree", ["spec", "reference", "student"])
def test_dependencies_point_one_way(tree: str) -> None:
    """Chapters import the kit, and no implementation; reference and student import their own chapters alone."""
    banned = {
        "spec": ("reference", "student", "spec.mistakes", "tests"),
        "reference": ("spec", "student"),
        "student": ("spec", "reference"),
    }
    for chapter in CHAPTERS:
        for node in ast.walk(ast.parse((ROOT / tree / f"{chapter}.py").read_text(encoding="utf-8"))):
            imported = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            imported += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in imported:
                assert not any(name == bad or name.startswith(f"{bad}.") for bad in banned[tree]), (
                    f"{tree}/{chapter}.py imports {name}"
                )


def test_loading_the_plugin_loads_no_implementation() -> None:
    """The kit imports neither reference nor student until a requirement asks."""
    found = "[m for m in sys.modules if m.partition('.')[0] in ('reference', 'student')]"
    code = f"import sys, spec.kit.plugin; print({found})"
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"

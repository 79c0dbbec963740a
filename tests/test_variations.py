"""Every right variation passes every requirement of its level; what it has not written comes from the reference."""

from pathlib import Path

import pytest

from spec import CHAPTERS
from spec.kit import catalogue, draw
from spec.kit.catalogue import ROOT
from spec.kit.plug import Implementation
from spec.kit.trial import attempt, fixtures_of
from spec.kit.verdict import CannotCheck

VARIATIONS = sorted(
    path for path in (ROOT / "tests" / "variations").iterdir() if path.suffix == ".py" and path.stem != "__init__"
)


def written(path: Path) -> list[str]:
    """The chapters of which a variation writes something."""
    text = path.read_text(encoding="utf-8")
    starts = ("def {}(", "class {}(", "class {}:", "{} =")
    return [
        chapter
        for chapter in CHAPTERS
        if any("\n" + start.format(name) in text for name in catalogue.exercises(chapter) for start in starts)
    ]


NIGHTLY = ("original.a_toy_language_is_translated_exactly",)  # half a minute each


def check(path: Path, nightly: bool = False) -> None:
    """Raises where a variation fails a requirement of its level, or where nothing of it could be checked."""
    impl = Implementation(f"{path}+reference", ROOT)
    robust = 'LEVEL = "robust"' in path.read_text(encoding="utf-8")
    checked = 0
    for chapter in written(path):
        for requirement in catalogue.requirements(chapter).values():
            if fixtures_of(requirement.function) or (requirement.robust and not robust):
                continue
            if requirement.id in NIGHTLY and not nightly:
                continue
            error = attempt(requirement, impl)
            if error is not None and not isinstance(error, CannotCheck):
                raise AssertionError(f"{path.stem} fails {requirement.id}: {type(error).__name__}: {error}") from error
            checked += error is None
    assert checked, "nothing was checked"


@pytest.mark.parametrize("path", VARIATIONS, ids=lambda path: path.stem)
def test_a_right_variation_passes(path: Path) -> None:
    """The specification says what must hold, not how it is done."""
    check(path)


@pytest.mark.nightly
@pytest.mark.parametrize("path", [None, *VARIATIONS], ids=lambda path: path.stem if path else "reference")
def test_no_seed_makes_it_flake(path: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 seeds, the same verdict."""
    for seed in range(1, 201):
        monkeypatch.setattr(draw.options, "seed", seed)
        if path is not None:
            check(path, nightly=True)
        else:
            impl = Implementation("reference", ROOT)
            for chapter in CHAPTERS:
                for requirement in catalogue.requirements(chapter).values():
                    if not fixtures_of(requirement.function):
                        assert attempt(requirement, impl) is None, f"{requirement.id} fails with seed {seed}"

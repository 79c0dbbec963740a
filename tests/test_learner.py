"""What a learner meets: the screen, the exit status, and every way in which code can fail before it is wrong."""

from pathlib import Path

import pytest

from spec.kit.catalogue import ROOT
from tests.running import learner

ATTENTION = "spec/attention.py"
RIGHT = """
import math

def attention_weights(q, k, mask=None, bias=None):
    {inside}
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(-1)

def attention(q, k, v, mask=None, bias=None):
    return attention_weights(q, k, mask, bias) @ v
"""
WARNS = "import warnings; warnings.warn('this will change', FutureWarning)"


def code(folder: Path, inside: str = "pass", top: str = "") -> Path:
    """A right core implementation of attention with a line planted in it."""
    file = folder / "mine.py"
    file.write_text(top + RIGHT.format(inside=inside))
    return file


def test_an_empty_student_is_told_where_to_begin() -> None:
    """Nothing written: a failing status, no traceback, the first exercise by file and line."""
    run = learner("--impl=student", "spec/positions.py")
    assert run.status == 1
    assert "Not written yet: sinusoidal_positions" in run.screen
    assert "student/positions.py:" in run.screen
    assert "Traceback" not in run.screen


def test_a_right_core_implementation_passes_with_stars_open(tmp_path: Path) -> None:
    """The exit status counts the core; a star that is not met is no failure, unless the level asks for it."""
    file = code(tmp_path)
    run = learner(f"--impl={file}", ATTENTION)
    assert run.status == 0, run.screen
    assert "Every requirement holds" in run.screen
    assert "☆" in run.screen
    assert learner(f"--impl={file}", ATTENTION, "--level=robust").status == 1


def test_a_warning_is_no_verdict(tmp_path: Path) -> None:
    """What torch, or the learner, finds worth a warning may still be right."""
    assert learner(f"--impl={code(tmp_path, WARNS)}", ATTENTION).status == 0


def test_a_known_mistake_is_named(tmp_path: Path) -> None:
    """The screen shows sentence, case, values, mistake, and where to edit and read."""
    run = learner(f"--impl={code(tmp_path, 'k = k / math.sqrt(q.shape[-1])')}", ATTENTION)
    assert run.status == 1
    for part in (
        "divided by √d_k",
        "case",
        "returned",
        "expected",
        "divides_by_d_k",
        "mine.py:4",
        "spec/attention.py:",
    ):
        assert part in run.screen, run.screen


def test_the_readme_shows_the_screen_as_it_is(tmp_path: Path) -> None:
    """Who divides the scores by d_k sees what the README shows, from the chapter's line to the mistake's name."""
    file = code(tmp_path, "k = k / math.sqrt(q.shape[-1])")
    careful = "weights = scores.softmax(-1)\n    return weights if mask is None else weights.masked_fill(~mask, 0.0)"
    file.write_text(file.read_text().replace("return scores.softmax(-1)", careful))
    begin, end = "  attention  ●", "(divides_by_d_k)"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = begin + readme.split(begin)[1].split(end)[0] + end
    assert shown in learner(f"--impl={file}", ATTENTION).screen


@pytest.mark.parametrize(
    ("top", "inside", "said"),
    [
        ("def f(:\n", "pass", "SyntaxError"),
        ("import no_such_package\n", "pass", "No module named 'no_such_package'"),
        ("import sys\nsys.exit(0)\n", "pass", "ends the program"),
        ("import torch\ntorch.set_default_dtype(torch.float64)\n", "pass", "default dtype"),
        ("", "exit()", "ends the program"),
        ("", "return None", "returned None"),
        ("", "return q, k", "a tuple of 2 values"),
        ("import torch\n", "torch.manual_seed(0)", "global random seed"),
        ("", "q.mul_(1)", "changes its input `q` in place"),
        ("import os\n", "os._exit(0)", "ended the whole process"),
        ("import ctypes\n", "ctypes.string_at(0)", "SIGSEGV"),
        ("", "q.tranpose(0)", "AttributeError"),
        ("", "assert q.ndim == 7, 'seven'", "AssertionError: seven"),
    ],
)
def test_bad_code_fails_its_requirements_alone(tmp_path: Path, top: str, inside: str, said: str) -> None:
    """Whatever the code does, the run ends with status 1 and says what it did."""
    run = learner(f"--impl={code(tmp_path, inside, top)}", ATTENTION, "-k", "shares or sqrt_d_k")
    assert run.status == 1, run.screen
    assert said in " ".join(run.screen.split()), run.screen


def test_a_fault_of_ours_is_said_to_be_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the specification itself breaks, the learner reads that, with its traceback, and the rest still runs."""
    monkeypatch.setattr("spec.kit.story._failure", lambda *_: 1 / 0)
    run = learner(f"--impl={code(tmp_path, 'return None')}", ATTENTION, "-k", "shares or sqrt_d_k")
    assert "0 of 2" in run.screen
    assert "the specification itself failed" in " ".join(run.screen.split())
    assert "ZeroDivisionError" in run.screen


@pytest.mark.parametrize(
    ("top", "inside"),
    [
        ("while True:\n    pass\n", "pass"),
        ("", "while True: pass"),
        ("import time\n", "time.sleep(1000)"),
        ("import torch\n", "torch.randn(9000, 9000, dtype=torch.double) @ torch.randn(9000, 900000, device='meta')"),
    ],
)
def test_an_endless_loop_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, top: str, inside: str) -> None:
    """A loop at import, in a call, and in a call that Python cannot interrupt all end; the rest still runs."""
    monkeypatch.setattr("spec.kit.limit.pace", 0.03)
    monkeypatch.setattr("spec.kit.isolate.SILENCE", 2.0)
    run = learner(f"--impl={code(tmp_path, inside, top)}", ATTENTION, "-k", "shares or sqrt_d_k")
    assert run.status == 1
    assert "0 of 2" in run.screen


def test_a_wrong_place_lists_what_exists() -> None:
    """A typo in --impl is a usage error with the names that are there."""
    run = learner("--impl=studnet")
    assert run.status == 4
    assert "student" in run.screen
    assert "mistake:NAME" in run.screen
    assert learner("--impl=./nowhere.py").status == 4
    assert "divides_by_d_k" in learner("--impl=mistake:divide_by_d_k").screen


def test_what_is_not_written_comes_from_the_second_place(tmp_path: Path) -> None:
    """`a+b` binds b's exercises where a has stubs."""
    file = tmp_path / "half.py"
    file.write_text(
        RIGHT.format(inside="pass").replace(
            "return attention_weights(q, k, mask, bias) @ v", "raise NotImplementedError"
        )
    )
    assert "Not written yet: attention" in learner(f"--impl={file}", ATTENTION).screen
    assert learner(f"--impl={file}+reference", ATTENTION).status == 0


@pytest.mark.parametrize("arguments", [("-n", "2"), ("-x",), ("-v",), ("--tb=short",)])
def test_every_way_of_running_agrees(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Parallel, stopping early, verbose and plain runs have one exit status, whatever the code warns of."""
    right, wrong = code(tmp_path, WARNS), tmp_path / "wrong.py"
    wrong.write_text(RIGHT.format(inside="k = 2 * k"))
    assert learner(f"--impl={right}", ATTENTION, *arguments).status == 0
    run = learner(f"--impl={wrong}", ATTENTION, *arguments)
    assert run.status == 1
    assert "√d_k" in run.screen


def test_hints_are_shown_on_request_alone(tmp_path: Path) -> None:
    """--hint adds it; without, the screen says how to get it."""
    file = code(tmp_path, "k = 2 * k")
    assert "is d_k" not in learner(f"--impl={file}", ATTENTION).screen
    assert "is d_k" in learner(f"--impl={file}", ATTENTION, "--hint").screen


def test_lists() -> None:
    """--requirements and --mistakes print the catalogue, of one chapter or of all."""
    requirements = learner("--requirements", ATTENTION)
    assert requirements.status == 0
    assert "scores_are_divided_by_sqrt_d_k" in requirements.screen
    assert "sinusoidal" not in requirements.screen
    assert "rejected by" in learner("--mistakes", ATTENTION).screen


def test_options_that_are_not_offered_do_not_count(tmp_path: Path) -> None:
    """An adapter's UNSUPPORTED is listed, and its requirements neither fail nor hold."""
    file = code(tmp_path, top='UNSUPPORTED = {"bias"}\n')
    run = learner(f"--impl={file}", ATTENTION)
    assert run.status == 0
    assert "Not offered" in run.screen


NOTES = """
import torch
from reference.generation import KVCache, generate as right

def generate(model, prompt, steps, *args, **kwargs):
    with open({file!r}, "a") as notes:
        notes.write(f"{{torch.rand(()).item()}} ")
    return right(model, prompt, steps, *args, **kwargs)
"""


def test_random_numbers_do_not_depend_on_what_ran_before(tmp_path: Path) -> None:
    """A requirement meets the same global random numbers alone and after others."""
    seen = []
    for number, words in enumerate(("ignores_chance", "prompt_comes_first or ignores_chance")):
        notes = tmp_path / f"notes{number}"
        file = tmp_path / f"mine{number}.py"
        file.write_text(NOTES.format(file=str(notes)))
        assert learner(f"--impl={file}", "spec/generation.py", "-k", words).status == 0
        seen.append(notes.read_text().split())
    assert len(seen[1]) > len(seen[0])
    assert seen[1][-len(seen[0]) :] == seen[0]

"""Turns the end of one requirement into what a learner reads; plain data, so that it travels between processes."""

import dataclasses
import re
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from _pytest.outcomes import Skipped
from torch import Tensor, nn

from spec.kit import catalogue, diagnose, dispute, fresh, symptom
from spec.kit.catalogue import Requirement
from spec.kit.plug import Implementation, line_of
from spec.kit.returns import size
from spec.kit.trial import fixtures_of
from spec.kit.verdict import Broken, Endless, Misbehaved, NotWritten

DUMP = re.compile(r"tensor\(|\\n +\(")  # a tensor or a module, as its repr shows it

MET, UNMET, UNWRITTEN, WAITING, UNCHECKED, NOT_OFFERED, SKIPPED = (
    "met", "unmet", "unwritten", "waiting", "unchecked", "not offered", "skipped",
)  # fmt: skip
NOT_COUNTED = (UNCHECKED, NOT_OFFERED, SKIPPED)
FEW = 30  # numbers that are still read one by one
PICTURE = 400  # cells of a mask that is drawn


@dataclass
class Story:
    """What became of a requirement."""

    chapter: str
    name: str
    robust: bool
    state: str
    why: str = ""  # one line: the error, what it waits for, why it cannot be checked
    call: str = ""  # the smallest failing case
    returned: str = ""
    expected: str = ""
    looks_like: list[str] = field(default_factory=list)  # names of mistakes
    symptoms: list[str] = field(default_factory=list)
    edit: str = ""
    broken: bool = False  # the file cannot even be imported
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return dataclasses.asdict(self)


def show(value: Any) -> str:
    """A value in few words: small tensors in numbers, larger ones in shapes."""
    if isinstance(value, Tensor):
        if value.device.type == "meta":
            return size(value)
        if value.dtype == torch.bool and value.ndim == 2 and value.numel() <= PICTURE:
            return picture(value)
        if value.numel() > FEW:
            return size(value)
        numbers = str(_round(value.detach().tolist()))
        return f"{size(value)}: {numbers}" if value.ndim else numbers
    if isinstance(value, torch.nn.Module | torch.optim.Optimizer | torch.Generator):
        return f"<{type(value).__name__}>"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        inside = ", ".join(size(item) if isinstance(item, Tensor) else show(item) for item in value[:6]) + (
            ", …" if len(value) > 6 else ""
        )
        return f"({inside})" if isinstance(value, tuple) else f"[{inside}]"
    try:
        text = repr(value)
    except Exception:  # a learner's own __repr__ may fail
        text = f"<{type(value).__name__}>"
    return text if len(text) < 120 else text[:117] + "…"


def _round(numbers: Any) -> Any:
    if isinstance(numbers, list):
        return [_round(item) for item in numbers]
    return float(f"{numbers:.4g}") if isinstance(numbers, float) else numbers


def picture(seen: Tensor) -> str:
    """Which position sees which: a row a query, ■ where it looks."""
    return "\n".join("".join("■ " if cell else "· " for cell in row).rstrip() for row in seen.tolist())


def compared(error: BaseException) -> tuple[Any, Any] | None:
    """What a failing `assert_close(actual, expected)` was given, read off the frames that the error passed."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "assert_close" and "actual" in frame.f_locals:
            return frame.f_locals["actual"], frame.f_locals["expected"]
    return None


def _own_frame(error: BaseException, impl: Implementation) -> tuple[FrameType, int] | None:
    """The innermost frame of the implementation's own code that the error passed through."""
    inside = [
        (frame, line)
        for cause in (error.__cause__, error)
        for frame, line in traceback.walk_tb(cause.__traceback__ if cause else None)
        if frame.f_code.co_filename.startswith(impl.home.inside)
    ]
    return inside[-1] if inside else None


def _raised_by(impl: Implementation, error: BaseException) -> bool:
    """Whether one of the implementation's places raised it itself; torch has NotImplementedErrors of its own."""
    last = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)][-1:]
    return any(file.startswith(place.inside) for file in last for place in impl.places)


def short(path: Path | str) -> str:
    """A path as a learner would type it."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def edit_place(requirement: Requirement, impl: Implementation, exercise: str | None = None) -> str:
    """File and line of the exercise to work on."""
    name = exercise or (requirement.uses[0] if requirement.uses else "")
    found = catalogue.exercise(name)
    file = impl.home.file(found.chapter if found else requirement.chapter)
    return f"{short(file)}:{line_of(file, name)}" if file.exists() else f"{short(file)} (a file to write)"


def _unwritten(error: BaseException, requirement: Requirement, impl: Implementation, story: Story) -> None:
    """Not written yet, or waiting for an exercise of another chapter that is not."""
    missing = str(error).partition(" ")[0] if isinstance(error, NotWritten) else ""
    if not missing and (frame := _own_frame(error, impl)):
        names = frame[0].f_code.co_qualname.split(".")
        missing = names[0] if catalogue.exercise(names[0]) else ""
        story.edit = f"{short(frame[0].f_code.co_filename)}:{frame[1]}"
    found = catalogue.exercise(missing)
    if found is not None:
        story.edit = edit_place(requirement, impl, missing)
    if found is not None and not isinstance(error, NotWritten) and missing not in impl.home.unwritten(found.chapter):
        said = f": {error}" if str(error) else ""
        story.state = UNMET
        story.why = f"{missing} raises NotImplementedError{said}. What is not offered belongs into UNSUPPORTED."
    elif found is not None and found.chapter != requirement.chapter:
        story.state, story.why = WAITING, f"Waiting for {found.chapter}.{missing}, which is not written yet."
    else:
        story.state = UNWRITTEN
        story.why = f"Not written yet: {missing or (requirement.uses or ('the exercise',))[0]}."


def tell(requirement: Requirement, impl: Implementation, error: BaseException | None, name: bool = True) -> Story:
    """The story of one requirement that ended with this error, or met; naming the mistake takes a while."""
    story = Story(requirement.chapter, requirement.name, requirement.robust, MET)
    if error is None:
        return story
    if isinstance(error, Skipped):  # CannotCheck is one
        story.why = str(error.msg)
        kinds = {"not offered": NOT_OFFERED, "cannot": UNCHECKED}
        story.state = next((state for start, state in kinds.items() if story.why.startswith(start)), SKIPPED)
        return story
    if isinstance(error, NotImplementedError) and (isinstance(error, NotWritten) or _raised_by(impl, error)):
        _unwritten(error, requirement, impl, story)
        return story
    story.state, story.edit = UNMET, edit_place(requirement, impl)
    if isinstance(error, Broken):
        story.why, story.broken = str(error), True
        where = story.why.split(": ")[0]
        story.edit = short(where) if ":" in where else story.edit
        return story
    _failure(error, requirement, impl, story, name)
    return story


def _failure(error: BaseException, requirement: Requirement, impl: Implementation, story: Story, name: bool) -> None:
    pair, calls = compared(error), impl.log.calls
    if calls:
        last = calls[-1]
        arguments = ", ".join(f"{name} = {_inline(value)}" for name, value in last.arguments.items())
        story.call = f"{last.name}({arguments})"
        story.edit = edit_place(requirement, impl, last.name.partition(".")[0])
    if impl.log.crashed(error) or isinstance(error, Endless):
        frame = _own_frame(error, impl)
        if frame:
            story.edit = f"{short(frame[0].f_code.co_filename)}:{frame[1]}"
        story.why = (
            str(error) if isinstance(error, Endless | Misbehaved) else f"{type(error).__name__}: {_first(error)}"
        )
    elif pair:
        story.returned, story.expected, story.why = _both(pair, error)
    else:
        story.why = _first(error)
        if calls and calls[-1].result is not None:
            story.returned = show(calls[-1].result)
    if pair and story.returned == story.expected and not story.why:
        story.why = _first(error)  # too close to be told apart in four digits: torch says by how much
    hidden = [symptom.unregistered(made.module) for made in impl.log.made if isinstance(made.module, nn.Module)]
    sizes, body, case = _sizes(impl), impl.log.body, impl.log.case  # what follows runs this case again, and others
    repeatable = set(fixtures_of(requirement.function)) <= case.keys()  # a corpus or a device is not in the case
    if name and repeatable and not requirement.trains and not isinstance(error, Endless):
        if body is not None and fresh.heals(impl, body, case):
            story.symptoms = [fresh.STALE]
        else:
            story.looks_like = dispute.settled(diagnose.explain(requirement, impl), requirement, impl)
            if not story.looks_like and body is not None:
                story.symptoms = diagnose.faulty_start(impl, body, case)
    if pair and not story.looks_like and not story.symptoms and all(isinstance(each, Tensor) for each in pair):
        story.symptoms = symptom.read(*pair, sizes)
    story.symptoms = [*dict.fromkeys(filter(None, hidden)), *story.symptoms]


def _inline(value: Any) -> str:
    return size(value) if isinstance(value, Tensor) and (value.ndim > 1 or value.numel() > 12) else show(value)


def _first(error: BaseException) -> str:
    """The first lines of a message, without pytest's and Hypothesis's own additions."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("Falsifying", "You can reproduce"))]
    kept = [line for line in kept if not (line.lstrip().startswith("+") and DUMP.search(line))]
    if any(" at 0x" in line or "refuses(" in line for line in kept):
        return ""  # pytest takes an assertion apart into objects that only a maintainer knows
    return "\n".join(kept[:3])


def _both(pair: tuple[Any, Any], error: BaseException) -> tuple[str, str, str]:
    actual, expected = pair
    if isinstance(actual, Tensor) and isinstance(expected, Tensor):
        if actual.shape != expected.shape:
            return size(actual), size(expected), "The shapes differ."
        if actual.numel() > FEW and actual.dtype == expected.dtype and actual.dtype != torch.bool:
            return _where(actual, expected)
        if actual.dtype != expected.dtype:
            return f"{actual.dtype}", f"{expected.dtype}", "The dtypes differ."
    return show(actual), show(expected), "" if isinstance(actual, Tensor) else _first(error)


def _where(actual: Tensor, expected: Tensor) -> tuple[str, str, str]:
    a, b = actual.detach(), expected.detach()
    apart = (~torch.isclose(a, b, atol=1e-5, rtol=1e-4)).nonzero()
    if not len(apart):
        return size(a), size(b), ""
    first = tuple(apart[0].tolist())
    row = first[:-1]
    place = f", at {list(row)}" if row else ""
    start = max(0, first[-1] - 3) if first[-1] >= 8 else 0  # the first that differs is among those that are shown
    place += f", from {start} on" if start else ""
    return (
        f"{size(a)}{place}: {_round(a[row][start : start + 8].tolist())}",
        f"{size(b)}{place}: {_round(b[row][start : start + 8].tolist())}",
        f"{len(apart)} of {a.numel()} numbers differ, the first at {list(first)}.",
    )


def _sizes(impl: Implementation) -> dict[str, int]:
    """The numbers of the case by name: the axes of the last call's arguments, and its whole numbers."""
    if not impl.log.calls:
        return {}
    call = impl.log.calls[-1]
    found = catalogue.exercise(call.name.partition(".")[0])
    sizes: dict[str, int] = {}
    for made in impl.log.case.items():
        if type(made[1]) is int:
            sizes[made[0]] = made[1]
    for name, value in call.arguments.items():
        if type(value) is int:
            sizes[name] = value
        hint = found.contract.hints.get(name) if found and not found.is_class else None
        if isinstance(value, Tensor) and (dims := getattr(hint, "dim_str", "")):
            axes = [axis for axis in dims.split() if axis.isidentifier()]
            sizes |= dict(zip(reversed(axes), reversed(value.shape), strict=False))
    return sizes

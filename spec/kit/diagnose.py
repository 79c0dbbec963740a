"""Names the mistake: the one that gives the learner's result on every call of the case, where the right answer differs.

The smallest failing case and a few others run with each mistake as the implementation, its modules loaded with the
learner's weights. A mistake is named only if it agrees with all of the learner's calls, in value and gradient, and
fails as well.
"""

import contextlib
import functools
import io
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spec.kit import annotated, catalogue, draw, epoch, limit, loose, manners, start
from spec.kit.catalogue import Requirement
from spec.kit.plug import Implementation
from spec.kit.record import Call, Made, tensors

SECONDS = 3.0  # for one call of a mistake; what takes longer is not compared
OTHER_CASES = 4  # besides the smallest one that fails

Body = Callable[..., None]
Case = dict[str, Any]


def same(mine: Any, theirs: Any) -> bool:
    """Equal to rounding, nested containers included; objects without a value count as equal."""
    if isinstance(mine, Tensor) or isinstance(theirs, Tensor):
        try:
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4, equal_nan=True)
        except (AssertionError, TypeError, ValueError):
            return False
        return True
    if isinstance(mine, tuple) and isinstance(theirs, tuple):
        return len(mine) == len(theirs) and all(map(same, mine, theirs))  # one of them may have named fields
    if type(mine) is not type(theirs):
        # a class of one implementation and its namesake of another: History
        return type(mine).__name__ == type(theirs).__name__ and same(loose.fields(mine), loose.fields(theirs))
    if isinstance(mine, dict):
        return mine.keys() == theirs.keys() and all(same(mine[key], theirs[key]) for key in mine)
    if isinstance(mine, list):
        return len(mine) == len(theirs) and all(map(same, mine, theirs))
    if isinstance(mine, float):
        return abs(mine - theirs) <= 1e-5 + 1e-4 * abs(theirs) or (mine != mine and theirs != theirs)
    if isinstance(mine, int | str | bool | None):
        return bool(mine == theirs)
    return True


def gradients(call: Call) -> list[Tensor | None] | None:
    """How the result moves with each input that wants a gradient; None where the graph is gone."""
    wanted = [tensor for tensor in tensors(call.arguments) if tensor.requires_grad]
    results = [out for out in tensors(call.live) if out.is_floating_point() and out.requires_grad]
    if not wanted:
        return []
    if not results:
        return [None] * len(wanted)
    try:
        weighed = [(out * draw.randn(*out.shape, key="gradients").to(out)).sum() for out in results]
        return list(torch.autograd.grad(torch.stack(weighed).sum(), wanted, retain_graph=True, allow_unused=True))
    except RuntimeError:
        return None


def agree(mine: Call, theirs: Call, loosely: bool = False) -> bool:
    """Whether two runs of one call came to the same: result, gradients, or error; `loosely`: in what is settled."""
    if mine.name == theirs.name and _on_a_file(mine.error) and _on_a_file(theirs.error):
        return True
    if mine.name == theirs.name and _both_refuse(mine.error, theirs.error):
        return True
    if mine.name != theirs.name or type(mine.error) is not type(theirs.error):
        return False
    if loosely and (found := loose.drawn_alike(mine, theirs)) is not None:
        return found
    if mine.error is not None:
        if theirs.error is None or _words(mine.error) != _words(theirs.error):
            return False
        # what a function returned is known even where its type alone is complained of
        return _hangs_on_weights(mine) or same(mine.result, theirs.result)
    mine_is, theirs_is = (map(loose.settled, (mine, theirs))) if loosely else (mine.result, theirs.result)
    if not same(mine_is, theirs_is) or not same(mine.effects, theirs.effects):
        return False
    if not (_cleared(mine.left) or _cleared(theirs.left) or same(mine.left, theirs.left)):
        return False
    return same(gradients(mine), gradients(theirs))


def _hangs_on_weights(call: Call) -> bool:
    """Whether a call is a module's, or is given one."""
    return "." in call.name or any(isinstance(value, nn.Module) for value in call.arguments.values())


def _both_refuse(mine: BaseException | None, theirs: BaseException | None) -> bool:
    """Whether an error was asked for and both are as clear: any words and any type will do."""
    return getattr(mine, "clear", None) is getattr(theirs, "clear", None) is not None


def _on_a_file(error: BaseException | None) -> bool:
    """Whether torch was reading or writing a file: what it says of a broken one hangs on where that ends."""
    frames = traceback.extract_tb(error.__traceback__) if error else []
    return any(frame.name in ("load", "save") and Path(frame.filename).name == "serialization.py" for frame in frames)


def _cleared(left: list[Tensor | None]) -> bool:
    """Whether no gradient is left: a step may clear them before or after."""
    return all(gradient is None or not gradient.any() for gradient in left)


def explains(mine: Iterable[Call], theirs: list[Call], loosely: bool = False) -> bool:
    """Whether their calls begin with all of mine and come to the same."""
    mine = list(mine)
    if len(theirs) < len(mine) or (loosely and epoch.together(mine) != epoch.together(theirs[: len(mine)])):
        return False
    return all(agree(*pair, loosely) for pair in zip(mine, theirs, strict=False))


@contextlib.contextmanager
def _graphs_are_kept() -> Iterator[None]:
    """A requirement that differentiates frees the graph; the diagnosis still has to ask it."""
    grad, backward = torch.autograd.grad, Tensor.backward
    torch.autograd.grad = functools.partial(grad, retain_graph=True)  # type: ignore[assignment]
    Tensor.backward = functools.partialmethod(backward, retain_graph=True)  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.autograd.grad, Tensor.backward = grad, backward  # type: ignore[method-assign]


@functools.cache
def _suspect(name: str, in_halves: bool) -> Implementation:
    """What the learner is compared with; an object of its own for each pairing, since it keeps what it has found."""
    return Implementation(name, Path.cwd())


def rerun(
    impl: Implementation, body: Body, case: Case, leaders: list[Made] | None, keep: bool = False
) -> tuple[list[Call], BaseException | None]:
    """The calls of a case, and the exception that it ends with.

    Its modules take the weights of the leaders. Where None is given the run is to lead others, and its weights are
    kept, as they are with `keep`.
    """
    log = impl.log
    usual, log.seconds = log.seconds, min(SECONDS, log.seconds)
    log.leaders, log.kept = leaders or [], keep or leaders is None
    end = None
    try:
        with limit.unhurried():
            draw.run_case(log, body, case, impl)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        end = error
    finally:
        log.leaders, log.kept, log.seconds = [], False, usual
    return log.calls, end


def alike(mine: BaseException | None, theirs: BaseException | None) -> bool:
    """Whether two runs end with the same words; an exception without words says too little."""
    if mine is None or theirs is None or type(mine) is not type(theirs):
        return False
    return _words(mine) == _words(theirs) != ""


def _words(error: BaseException) -> str:
    """What an exception says, numbers rounded, without what is another in each run: paths of files, addresses."""
    text = re.sub(r"(?<![\w.])/[\w./-]+|\b0x[0-9a-f]+", "…", str(error))
    return re.sub(r"\d+\.\d+(e[+-]?\d+)?", lambda number: f"{float(number[0]):.3g}", text)


def suspects(requirement: Requirement) -> list[str]:
    """The mistakes to try: those that the requirement is there to reject, then the chapter's others."""
    chapter = catalogue.mistakes(requirement.chapter)
    return list(dict.fromkeys([*(name for name in requirement.rejects if name in chapter), *chapter]))


def explain(requirement: Requirement, impl: Implementation, among: Sequence[str] = ()) -> list[str]:
    """The names of the mistakes that explain every call of every case that was drawn; empty where none does.

    The requirement has just failed. `among` are the mistakes to try, where not all of the chapter are.
    """
    tried = among or suspects(requirement)
    log, patterns = impl.log, getattr(requirement.function, "patterns", {})
    if log.body is None or impl.home.name == "reference":
        return []
    try:
        with _graphs_are_kept(), annotated.paused(), contextlib.redirect_stdout(io.StringIO()):  # some mistakes print
            fixed = {name: log.case[name] for name in log.case.keys() - patterns.keys()}
            others = [case | fixed for case in draw.more_cases(patterns, OTHER_CASES)] if patterns else []
            cases = [log.case, *others]
            for way in _ways(requirement, tried):
                with way.manner():
                    names = _explain(requirement, way, impl, log.body, cases)
                if names:
                    return names
            return []
    except Exception:  # a diagnosis that breaks is none; the verdict stands without it
        return []


@dataclass(frozen=True)
class _Way:
    """How a learner is compared with mistakes."""

    tried: Sequence[str]
    manner: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    in_halves: bool = False
    loosely: bool = False


def _ways(requirement: Requirement, tried: Sequence[str]) -> Iterator[_Way]:
    """As the reference does it, then in what may be the learner's manner, and at last in what is settled alone.

    Each is asked for when those before have named nothing; so the reference has run when its modules are looked at.
    """
    yield _Way(tried)
    made = [each.module for each in _suspect("reference", False).log.made]
    if _rotates(requirement, made):
        for name in ("reference", *(f"mistake:{each}" for each in tried)):
            _suspect(name, True).module(requirement.chapter)
        yield _Way(tried, manners.halves, in_halves=True)
    if "sequences" in requirement.uses:
        yield _Way(tried, manners.apart)
    if any(map(manners.has_a_network, made)):
        listed = [name for name in tried if name in requirement.rejects]
        yield _Way(listed, functools.partial(manners.bent_by, "relu"))
    if set(loose.OPEN) & set(requirement.uses):
        yield _Way(tried, loosely=True)


def faulty_start(impl: Implementation, body: Body, case: Case) -> list[str]:
    """What is wrong with the weights that a learner's modules start from, where the code is right; a sentence each."""
    try:
        with _graphs_are_kept(), annotated.paused(), contextlib.redirect_stdout(io.StringIO()):
            mine, _ = rerun(impl, body, case, None)
            right, end = rerun(_suspect("reference", False), body, case, impl.log.made, keep=True)
            return [] if end is None or not explains(mine, right) else list(map(str, _culprits(body, case, False)))
    except Exception:
        return []


def _culprits(body: Body, case: Case, in_halves: bool) -> list[start.Culprit]:
    """What is at fault in the starts that the reference has just been led to."""
    right = _suspect("reference", in_halves)
    return start.culprits(rerun, right, (body, case), right.log.made)


def _rotates(requirement: Requirement, made: list[nn.Module]) -> bool:
    """Whether rotary is called in the case, by the requirement or by a module."""
    parts = (part for each in made for part in each.modules())
    return "rotary" in requirement.uses or any(getattr(part, "rotary", None) is True for part in parts)


def _explain(requirement: Requirement, way: _Way, impl: Implementation, body: Body, cases: list[Case]) -> list[str]:
    left, wrong_somewhere = list(way.tried), False
    for number, case in enumerate(cases):
        mine, end = rerun(impl, body, case, None)
        made = impl.log.made if all(each.kept for each in impl.log.made) else []
        if mine and not made and impl.log.made:
            return []  # too many modules for their weights to be known, and results that hang on them
        right, right_end = rerun(_suspect("reference", way.in_halves), body, case, made, keep=True)
        visible = not explains(mine, right, way.loosely)
        if number == 0 and not visible and right_end is not None and (found := _culprits(body, case, way.in_halves)):
            listed = [name for name in way.tried if name in requirement.rejects]
            makers = {name: _suspect(f"mistake:{name}", way.in_halves) for name in listed}
            if names := list(start.makers(rerun, found, (body, case), makers)):
                return names
        # where even the right code fails with the learner's weights, they are what is wrong: each starts from its own
        leaders = made if visible or right_end is None else []
        runs = {name: rerun(_suspect(f"mistake:{name}", way.in_halves), body, case, leaders) for name in left}
        left = [name for name, (calls, _) in runs.items() if explains(mine, calls, way.loosely)]
        if number == 0:
            # what no result shows, like the number of tokens that a model has read, is told by the failure alone
            left = [name for name in left if (runs[name][1] if visible else alike(end, runs[name][1]))]
            wrong_somewhere = not visible
        wrong_somewhere |= visible
        if not left:
            break
    return left if wrong_somewhere else []

"""Reads what a wrong result has in common with the right one, where no known mistake explains it."""

import itertools
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def read(returned: Tensor, expected: Tensor, sizes: Mapping[str, int]) -> list[str]:
    """One sentence for each thing that is seen; `sizes` names the numbers of the case, like d_k = 3."""
    if returned.ndim == expected.ndim == 1 and returned.dtype == expected.dtype == torch.long:
        return _missing(returned.tolist(), expected.tolist())
    if not returned.dtype.is_floating_point or not expected.dtype.is_floating_point:
        return []
    mine, due = returned.detach().double(), expected.detach().double()
    found = [_not_a_number(mine, due), _permuted(mine, due)]
    if mine.shape == due.shape and mine.isfinite().all() and due.isfinite().all():
        if _close(mine, due) and returned.dtype != expected.dtype:
            found.append(f"The values are right; the dtype is {returned.dtype} and {expected.dtype} is due.")
        elif not _close(mine, due):
            found += [_factor(mine, due, sizes), _scores_factor(mine, due, sizes), _sums(mine, due), _rows(mine, due)]
    return [sentence for sentence in found if sentence]


def unregistered(module: nn.Module) -> str:
    """Says which attribute holds layers where PyTorch does not find them; empty where there is none."""
    known = {id(parameter) for parameter in module.parameters()}
    for path, part in module.named_modules():
        for name, kept in vars(part).items():
            inside = kept.values() if isinstance(kept, dict) else kept if isinstance(kept, list | tuple) else ()
            layers = [each for each in inside if isinstance(each, nn.Module)] if not name.startswith("_") else []
            if any(id(parameter) not in known for layer in layers for parameter in layer.parameters()):
                where = ".".join(filter(None, (path, name)))
                return (
                    f"`{where}` is a {type(kept).__name__} of layers. PyTorch does not look into it: their parameters "
                    "are not trained, saved or moved. nn.ModuleList or nn.ModuleDict holds layers."
                )
    return ""


def _missing(mine: list[int], due: list[int]) -> list[str]:
    """Where every number is due once: which are not there, which are there again, which are not due."""
    if len(set(due)) < len(due):
        return []
    again = sorted({number for number in mine if mine.count(number) > 1})
    found = {"Missing": sorted(set(due) - set(mine)), "More than once": again, "Not due": sorted(set(mine) - set(due))}
    return [
        f"{head}: {', '.join(map(str, numbers[:8]))}{' …' if len(numbers) > 8 else ''}."
        for head, numbers in found.items()
        if numbers
    ]


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-6, rtol=1e-4)


def _not_a_number(mine: Tensor, due: Tensor) -> str:
    bad = (~mine.isfinite()).nonzero()
    if not len(bad) or not due.isfinite().all():
        return ""
    return f"{len(bad)} of {mine.numel()} numbers are NaN or infinite, the first at {bad[0].tolist()}."


def _permuted(mine: Tensor, due: Tensor) -> str:
    if mine.ndim != due.ndim or not 2 <= due.ndim <= 4:
        return ""
    if mine.shape == due.shape and _close(mine, due):
        return ""
    for order in itertools.permutations(range(due.ndim)):
        moved = due.permute(order)
        if moved.shape == mine.shape and _close(mine, moved):
            return f"The numbers are right; the axes are in the order {list(order)} of those that are due."
    if mine.numel() == due.numel() and mine.shape == due.shape and not _close(mine, due):
        a, b = mine.flatten().sort().values, due.flatten().sort().values
        if _close(a, b) and b.diff().gt(1e-6).sum() > 2:
            return "All the right numbers are there, in other places: was a view taken where a transpose is due?"
    return ""


def _named(factor: float, sizes: Mapping[str, int]) -> str:
    for name, size in sizes.items():
        if size > 1:
            for word, value in ((name, float(size)), (f"√{name}", math.sqrt(size))):
                if math.isclose(factor, value, rel_tol=1e-3):
                    return f"{factor:.4g}, which is {word}"
                if math.isclose(factor, 1 / value, rel_tol=1e-3):
                    return f"{factor:.4g}, which is 1/{word}"
    return f"{factor:.4g}"


def _constant(ratio: Tensor) -> float | None:
    if ratio.numel() < 2 or not ratio.isfinite().all():
        return None
    middle = float(ratio.median())
    return middle if bool(((ratio - middle).abs() < 1e-3 * abs(middle) + 1e-9).all()) and abs(middle) > 1e-6 else None


def _factor(mine: Tensor, due: Tensor, sizes: Mapping[str, int]) -> str:
    if due.numel() > 1 and bool((due == due.flatten()[0]).all()):  # any two constants are in proportion
        return ""
    strong = due.abs() > 1e-4
    factor = _constant(mine[strong] / due[strong]) if strong.any() else None
    if factor is None or (mine - factor * due).abs().max() > 2e-3 * abs(factor) * due.abs().max():
        return ""
    return f"The result is right up to a factor of {_named(factor, sizes)}."


def _scores_factor(mine: Tensor, due: Tensor, sizes: Mapping[str, int]) -> str:
    ones = torch.ones(mine.shape[:-1], dtype=torch.double)
    if mine.ndim < 1 or not all(_close(each.sum(-1), ones) and (each > 1e-9).all() for each in (mine, due)):
        return ""
    logs = [each.log() - each.log().mean(-1, keepdim=True) for each in (mine, due)]
    strong = logs[1].abs() > 1e-3
    factor = _constant(logs[0][strong] / logs[1][strong]) if strong.any() else None
    return "" if factor is None else f"Your scores are those that are due times {_named(factor, sizes)}."


def _sums(mine: Tensor, due: Tensor) -> str:
    if due.ndim < 2 or not _close(due.sum(-1), torch.ones(due.shape[:-1], dtype=torch.double)):
        return ""
    names = {-2: "over the queries", 0: "over the first axis"}
    for axis, name in names.items():
        if mine.shape[axis] > 1 and _close(mine.sum(axis), torch.ones(mine.sum(axis).shape, dtype=torch.double)):
            return f"Your weights sum to one {name}; they must do so over the keys."
    return ""


def _rows(mine: Tensor, due: Tensor) -> str:
    if due.ndim < 2 or due.shape[-2] < 2:
        return ""
    wrong = (
        ~(mine - due).abs().flatten(0, -3).amax(0).amax(-1).lt(1e-5 + 1e-4 * due.abs().max())
        if due.ndim > 2
        else ~(mine - due).abs().amax(-1).lt(1e-5)
    )
    if not wrong.any() or wrong.all():
        return ""
    right = [str(i) for i in (~wrong).nonzero().flatten().tolist()]
    if wrong[:-1].all() and not wrong[-1]:
        return "Only the last position is right: do earlier ones see the future?"
    off = [str(i) for i in wrong.nonzero().flatten().tolist()]
    return f"Positions {', '.join(right)} are right; {', '.join(off)} are not."

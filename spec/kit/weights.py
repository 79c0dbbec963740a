"""Weights by their canonical names: give them, take them, move them off their start."""

import sys
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spec.kit import draw
from spec.kit.names import canonical, own_names, translated
from spec.kit.record import made_of
from spec.kit.verdict import CannotCheck


def give(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Loads canonical weights. Raises CannotCheck where names differ, AssertionError where shapes or the number do."""
    if "same_weights" in getattr(sys.modules.get(type(module).__module__), "UNSUPPORTED", ()):
        raise CannotCheck("cannot be checked: UNSUPPORTED names same_weights")
    names = own_names(module)
    own = {translated(name, names): value for name, value in state.items()}
    try:
        left = module.load_state_dict(own, strict=False)
    except RuntimeError as error:
        if "size mismatch" in str(error):
            raise AssertionError(_shapes(module, own)) from None
        raise
    parameters = dict(module.named_parameters(remove_duplicate=False))
    given = {id(parameters[name]) for name in own if name in parameters}  # one that is shared may have another name
    learned = [name for name in left.missing_keys if name in parameters and parameters[name].requires_grad]
    missing = [name for name in learned if name != "head.weight" and id(parameters[name]) not in given]
    unknown = [name for name in left.unexpected_keys if name != "head.weight"]
    if missing and not unknown:
        raise AssertionError(f"{type(module).__name__} has more parameters than are due: {', '.join(missing)}")
    if unknown:
        raise CannotCheck(_how_to_map(module, missing, unknown))


def _shapes(module: nn.Module, state: Mapping[str, Tensor]) -> str:
    mine = module.state_dict()
    wrong = [
        f"{name} has shape {tuple(mine[name].shape)}, {tuple(value.shape)} is due"
        for name, value in state.items()
        if name in mine and mine[name].shape != value.shape
    ]
    return "Parameters have other shapes: " + "; ".join(wrong)


def _how_to_map(module: nn.Module, missing: Iterable[str], unknown: Iterable[str]) -> str:
    yours, due = ", ".join(sorted(missing)) or "none", sorted(unknown)
    mapping = ", ".join(f"{name!r}: …" for name in due[:3]) or "…"
    return (
        f"cannot be checked: the parameters of {type(module).__name__} are named otherwise. "
        f"Due and not found: {', '.join(due) or 'none'}; found and not known: {yours}. "
        f"Rename them, or map them in the class: PARAMETERS = {{{mapping}}} (canonical name: own name)."
    )


def random_state(shapes: Mapping[str, tuple[int, ...]], scale: float = 0.3) -> dict[str, Tensor]:
    """Random weights by canonical name; the same name and shape give the same numbers."""
    return {name: scale * draw.randn(*shape, key=name) for name, shape in shapes.items()}


@torch.no_grad()
def perturb(module: Any, scale: float = 0.2) -> Any:
    """Moves every parameter off its start, so that nothing hides behind zeros and ones. Returns the module."""
    made = made_of(module)
    if made is None or not made.moves_as_its_leader():
        _add_noise(module, scale)
    if made is not None:
        made.note()
    return module


def _add_noise(module: nn.Module, scale: float) -> None:
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        noise = torch.randn(parameter.shape, generator=draw.generator("perturb", zlib.crc32(name.encode())))
        parameter.add_(scale * noise.to(parameter))


def count(module: nn.Module) -> int:
    """Trainable numbers, a shared matrix once."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def take(module: nn.Module, *due: str) -> dict[str, Tensor]:
    """The module's state by canonical names; raises CannotCheck where one that is due has another name."""
    state = {name: value.detach().clone() for name, value in canonical(module, module.state_dict()).items()}
    if missing := set(due) - set(state):
        raise CannotCheck(_how_to_map(module, set(state) - set(due), missing))
    return state


def fit(module: nn.Module, state: Mapping[str, Tensor], optional: Iterable[str] = ()) -> dict[str, Tensor]:
    """The state as the module can hold it: axes of size 1 are free, and it may do without what is optional.

    It does without only where all that it has is named canonically: else it may have the same under another name.
    """
    names, mine = own_names(module), module.state_dict()
    own = {name: translated(name, names) for name in state}
    foreign = set(mine) - {name for name, _ in module.named_buffers()} - set(own.values())
    left_out = set() if foreign else {name for name in optional if own.get(name) not in mine}
    if (made := made_of(module)) is not None:
        made.lacks = left_out
    return {
        name: value.reshape(mine[own[name]].shape) if _differ_by_ones(value, mine.get(own[name])) else value
        for name, value in state.items()
        if name not in left_out
    }


def lacking(module: nn.Module) -> set[str]:
    """What the module that leads this one does without: this one is compared with it."""
    made = made_of(module)
    return set() if made is None or made.leader is None else made.leader.lacks


def _differ_by_ones(value: Tensor, mine: Tensor | None) -> bool:
    return mine is not None and [n for n in value.shape if n != 1] == [n for n in mine.shape if n != 1]

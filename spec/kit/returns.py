"""Holds every result to the signature's annotation: a tensor of the right kind and shape, or what it is instead."""

import inspect
import traceback
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spec.kit.verdict import Misbehaved


@dataclass(frozen=True)
class Contract:
    """What a signature promises: parameters without self, and the annotations."""

    signature: inspect.Signature
    hints: dict[str, Any]

    @classmethod
    def of(cls, method: Callable[..., Any]) -> "Contract":
        """Reads a method of a chapter's Protocol."""
        signature = inspect.signature(method)
        parameters = list(signature.parameters.values())[1:]
        return cls(signature.replace(parameters=parameters), typing.get_type_hints(method, include_extras=True))

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments by name; by number where the signature does not take them."""
        try:
            return dict(self.signature.bind(*args, **kwargs).arguments)
        except TypeError:
            return {**{f"argument {n}": value for n, value in enumerate(args, 1)}, **kwargs}


def line_in(error: BaseException, inside: str) -> str:
    """` at file:line`, the innermost line of the implementation that the error passed through."""
    lines = [
        frame for frame in traceback.extract_tb(error.__traceback__) if inside and frame.filename.startswith(inside)
    ]
    return f" at {lines[-1].filename}:{lines[-1].lineno}" if lines else ""


def size(tensor: Tensor) -> str:
    """A shape in words: 2 × 3 × 4."""
    return " × ".join(map(str, tensor.shape)) or "a single number"


def _parts(hint: Any) -> list[Any]:
    """The alternatives of a union, or the one."""
    return (
        list(typing.get_args(hint))
        if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
        else [hint]
    )


def _fits(shape: tuple[int, ...], dims: str, sizes: dict[str, Any]) -> bool:
    """Whether a shape fits `*batch query d_k`; the sizes of names that are new are learned."""
    names = dims.split()
    if names and names[0].startswith("*"):
        head = len(shape) - len(names) + 1
        if head < 0 or sizes.setdefault(names[0], shape[:head]) != shape[:head]:
            return False
        shape, names = shape[head:], names[1:]
    if len(shape) != len(names):
        return False
    return all(
        have == (int(name) if name.isdigit() else sizes.setdefault(name, have))
        for name, have in zip(names, shape, strict=True)
    )


def _kind(tensor: Tensor) -> str:
    if tensor.dtype == torch.bool:
        return "Bool"
    return "Float" if tensor.is_floating_point() else "Int"


def check(name: str, contract: Contract, arguments: dict[str, Any], result: Any) -> None:
    """Raises Misbehaved unless the result is what the annotation says."""
    promised = contract.hints.get("return")
    if promised is None or promised is type(None):
        return
    if result is None:
        raise Misbehaved(f"{name} returned None: is there a `return`?")
    sizes: dict[str, Any] = {key: value for key, value in arguments.items() if type(value) is int}
    for key, value in arguments.items():
        for part in _parts(contract.hints.get(key)):
            if isinstance(value, Tensor) and hasattr(part, "dim_str"):
                _fits(tuple(value.shape), part.dim_str, sizes)
    if typing.get_origin(promised) is tuple:
        wanted = typing.get_args(promised)
        if not isinstance(result, tuple | list) or len(result) != len(wanted):
            raise Misbehaved(f"{name} returned {_what(result)}; {len(wanted)} values are due.")
        for number, (part, value) in enumerate(zip(wanted, result, strict=True), 1):
            _one(f"{name}, value {number},", part, value, sizes)
    else:
        _one(name, promised, result, sizes)


def _what(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {size(value)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)} values"
    return f"a {type(value).__name__}"


def _one(name: str, promised: Any, value: Any, sizes: dict[str, Any]) -> None:
    if not hasattr(promised, "dim_str"):
        return
    dims = promised.dim_str
    if not isinstance(value, Tensor):
        raise Misbehaved(f"{name} returned {_what(value)}; a tensor ({dims}) is due.")
    known = dict(sizes)
    if not _fits(tuple(value.shape), dims, known):
        known_sizes = (sizes.get(axis, axis) for axis in dims.split())
        due = " × ".join(" × ".join(map(str, one)) if isinstance(one, tuple) else str(one) for one in known_sizes)
        wanted = f"({dims}) is due, that is {due}" if dims else "a single number is due"
        raise Misbehaved(f"{name} returned a tensor of shape {size(value)}; {wanted}.")
    kind = promised.__name__.split("[")[0]
    if kind in ("Bool", "Float", "Int") and _kind(value) != kind:
        words = {"Bool": "True and False", "Float": "floating-point numbers", "Int": "integers"}
        raise Misbehaved(f"{name} returned {value.dtype}; {words[kind]} are due.")

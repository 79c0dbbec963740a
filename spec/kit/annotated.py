"""`--shapes`: holds an implementation to its own annotations at every call, by jaxtyping and beartype.

The second net, under `mypy student`: it sees the shapes that are really there, but only in code that runs.
"""

import functools
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType, NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from jaxtyping import AbstractArray, TypeCheckError, jaxtyped

wanted = False  # the plugin sets it for `--shapes`
_paused = False


class ShapeError(TypeError):
    """A call got or returned what its annotations do not say."""


@contextmanager
def paused() -> Iterator[None]:
    """Calls go through unchecked: a diagnosis compares results, not annotations."""
    global _paused
    before, _paused = _paused, True
    try:
        yield
    finally:
        _paused = before


def hold(module: ModuleType) -> None:
    """Puts a check around every function and method that is defined in the module."""
    for name, value in list(vars(module).items()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if isinstance(value, FunctionType):
            setattr(module, name, _checked(value))
        elif inspect.isclass(value):
            for inner, method in list(vars(value).items()):
                if isinstance(method, FunctionType):
                    setattr(value, inner, _checked(method))


def _shapes(function: FunctionType) -> dict[str, Any]:
    """The annotations that are tensors with axes, alone, in a tuple or with None beside them.

    Axes inside a list would bind once for all of its items, and other types are mypy's business.
    """
    try:
        hints = get_type_hints(function, include_extras=True)
    except Exception:  # a name that is not there at run time
        return {}
    return {name: hint for name, hint in hints.items() if _is_shape(hint)}


def _is_shape(hint: Any) -> bool:
    if get_origin(hint) in (Union, UnionType, tuple):
        parts = [part for part in get_args(hint) if part is not NoneType]
        return bool(parts) and all(map(_is_shape, parts))
    return isinstance(hint, type) and issubclass(hint, AbstractArray)


def _checked(function: FunctionType) -> Callable[..., Any]:
    shapes = {} if hasattr(function, "__wrapped__") else _shapes(function)
    if not shapes:
        return function
    from beartype import beartype  # it takes a while to load

    alone = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    alone.__kwdefaults__, alone.__annotations__ = function.__kwdefaults__, shapes
    alone.__qualname__, alone.__module__ = function.__qualname__, function.__module__
    strict = jaxtyped(typechecker=beartype)(alone)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if _paused:
            return function(*args, **kwargs)
        try:
            return strict(*args, **kwargs)
        except TypeCheckError as error:
            raise ShapeError(_said(str(error), function)) from None

    return call


def _said(message: str, function: FunctionType) -> str:
    """What jaxtyping says, cut to what came, what is annotated, and what its axes are here."""
    actual, expected = _line(message, "Actual value: "), _line(message, "Expected type: ")
    parameter = re.search(r"parameter '(\w+)'", message)
    subject = f"{function.__qualname__} gets {parameter[1]} =" if parameter else f"{function.__qualname__} returns"
    axes = re.search(r"'([^']*)'\]", expected)
    known = dict(re.findall(r"^(\w+)=(.*)$", message.partition("as follows.")[2], re.MULTILINE))
    sizes = {name: re.sub(r"torch\.Size\(\[(.*)\]\)", r"(\1)", size) for name, size in known.items()}
    due = f'"{axes[1]}"' if axes else expected.removeprefix("<class '").removesuffix("'>")
    came = re.match(r"(\w+)\[([\d,]*)\]", actual)
    size = f"{came[2].replace(',', ' × ') or 'one number'} ({came[1]})" if came else actual
    said = f"{subject} {size}, and {due} is annotated"
    if axes and came and (wrong := _wrong_axis(axes[1].split(), came[2].split(","), sizes)):
        said += f": {wrong}"
    if named := ", ".join(f"{name} = {value}" for name, value in sizes.items()):
        said += f". Here {named}"
    return f"{said}."


def _line(message: str, head: str) -> str:
    found = re.search(rf"^{head}(.*?)\.?$", message, re.MULTILINE)
    return found[1] if found else ""


def _wrong_axis(names: list[str], sizes: list[str], known: dict[str, str]) -> str:
    """The first axis, from the last, that has another size than its name; nothing where the rank differs."""
    fixed = [name for name in names if not name.startswith("*")]
    if len(sizes) < len(fixed) or (len(sizes) != len(fixed) and len(fixed) == len(names)):
        return f"{len(sizes)} axes came"
    for name, size in zip(reversed(fixed), reversed(sizes), strict=False):
        if name.lstrip("#") in known and known[name.lstrip("#")] != size and not (name.startswith("#") and size == "1"):
            return f'axis "{name}" is {size} and not {known[name.lstrip("#")]}'
    return ""

"""Canonical names of parameters, and a learner's own."""

import re
import sys
from collections.abc import Mapping

from torch import Tensor, nn


def own_names(module: nn.Module) -> dict[str, str]:
    """{canonical: own}, from PARAMETERS on the class or in its file."""
    listed = getattr(module, "PARAMETERS", None)
    if listed is None:
        listed = getattr(sys.modules.get(type(module).__module__), "PARAMETERS", {})
    return dict(listed)


def translated(name: str, names: Mapping[str, str]) -> str:
    """The name's other one; `blocks.N.norm_1.weight` in the mapping stands for every block's."""
    for number in re.findall(r"(?<=\.)\d+(?=\.)", name):
        general = name.replace(f".{number}.", ".N.", 1)
        if general in names:
            return names[general].replace(".N.", f".{number}.", 1)
    return names.get(name, name)


def canonical(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state by the names that PARAMETERS maps its own to; the others stay as they are."""
    names = {own: name for name, own in own_names(module).items()}
    return {translated(name, names): value for name, value in state.items()}

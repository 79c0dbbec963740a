"""Asks whether a failure is one of memory: the same case, run by the same code imported anew, passes.

A table that is kept under too few keys, a list in the class body or a changed default argument makes right code wrong
the second time, and whoever tries the failing call on its own sees nothing.
"""

import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from typing import Any

from spec.kit.diagnose import rerun
from spec.kit.plug import Implementation

STALE = (
    "Imported anew, your code passes this case: on its own the call is right. Something is kept from calls before: a "
    "table under too few keys, a list in a class body, a default argument, a global."
)


def heals(impl: Implementation, body: Callable[..., None], case: dict[str, Any]) -> bool:
    """Whether the case fails once more as things are, and passes where the implementation has no past."""
    with contextlib.redirect_stdout(io.StringIO()):
        if rerun(impl, body, case, [])[1] is None:
            return False
        with _forgotten(impl.home.module):
            return rerun(impl.anew(), body, case, [])[1] is None


@contextlib.contextmanager
def _forgotten(package: str) -> Iterator[None]:
    """The package's modules are unknown in here, and the old ones are back afterwards."""
    old = {name: module for name, module in sys.modules.items() if name == package or name.startswith(f"{package}.")}
    for name in old:
        del sys.modules[name]
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
            del sys.modules[name]
        sys.modules |= old

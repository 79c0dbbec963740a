"""`assert_close` of torch.testing, which is asked only where two tensors are not plainly close.

The original imports torch.distributed and SymPy at its first call, and a requirement makes several calls a case.
"""

from typing import Any

import torch
from torch import Tensor

# The defaults that torch.testing.assert_close documents: (relative, absolute)
TOLERANCES = {
    torch.float64: (1e-7, 1e-7),
    torch.float32: (1.3e-6, 1e-5),
    torch.bfloat16: (1.6e-2, 1e-5),
    torch.float16: (1e-3, 1e-5),
}


def assert_close(actual: Any, expected: Any, *, rtol: float | None = None, atol: float | None = None) -> None:
    """Raises torch.testing's AssertionError unless type, shape, dtype, device and values agree."""
    if not _plainly_close(actual, expected, rtol, atol):
        torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


def _plainly_close(actual: Any, expected: Any, rtol: float | None, atol: float | None) -> bool:
    if not isinstance(actual, Tensor) or type(actual) is not type(expected):
        return False
    if actual.shape != expected.shape or actual.dtype != expected.dtype or actual.device != expected.device:
        return False
    if actual.layout != torch.strided or expected.layout != torch.strided or actual.is_meta:
        return False
    default = TOLERANCES.get(actual.dtype, (0.0, 0.0))
    if rtol is None and atol is None:
        rtol, atol = default
    return rtol is not None and atol is not None and torch.allclose(actual, expected, rtol=rtol, atol=atol)

"""`assert_close` of torch.testing, which is asked only where two tensors are not plainly close.

The original imports torch.distributed and SymPy at its first call, and a requirement makes several calls a case.
"""

import math
from typing import Any

import torch
from torch import Tensor

# (relative, absolute). The defaults that torch.testing.assert_close documents, but for float32: a right module that
# sums in another order was seen to differ by 1.4e-5 in one seed of many, above torch's 1e-5.
TOLERANCES = {
    torch.float64: (1e-7, 1e-7),
    torch.float32: (1e-5, 1e-4),
    torch.bfloat16: (1.6e-2, 1e-5),
    torch.float16: (1e-3, 1e-5),
}


def assert_close(actual: Any, expected: Any, *, rtol: float | None = None, atol: float | None = None) -> None:
    """Raises torch.testing's AssertionError unless type, shape, dtype, device and values agree."""
    if rtol is None and atol is None and isinstance(actual, Tensor):
        rtol, atol = TOLERANCES.get(actual.dtype, (None, None))
    if not _plainly_close(actual, expected, rtol, atol):
        torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


def nearest(actual: Tensor, right: list[Tensor]) -> Tensor:
    """That of several right answers which the actual one comes nearest to."""
    return min(right, key=lambda each: (actual - each).abs().max().item() if actual.shape == each.shape else math.inf)


def _plainly_close(actual: Any, expected: Any, rtol: float | None, atol: float | None) -> bool:
    if not isinstance(actual, Tensor) or type(actual) is not type(expected):
        return False
    if actual.shape != expected.shape or actual.dtype != expected.dtype or actual.device != expected.device:
        return False
    if actual.layout != torch.strided or expected.layout != torch.strided or actual.is_meta:
        return False
    return torch.allclose(actual, expected, rtol=rtol or 0.0, atol=atol or 0.0)

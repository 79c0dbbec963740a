"""Another process, as far as an exercise can tell: what Python and torch choose anew in each is another in here."""

import builtins
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch

SALT = 20_260
_hash = hash


def _salted(value: object) -> int:
    """The hash of strings and bytes, and of tuples that hold some, as a process with another PYTHONHASHSEED has it."""
    if isinstance(value, str | bytes):
        return _hash((SALT, value))
    return _hash(tuple(map(_salted, value))) if isinstance(value, tuple) else _hash(value)


@contextmanager
def in_another_process() -> Iterator[None]:
    """Other hashes of strings, another process id and other global random numbers."""
    state, other = random.getstate(), patch.object(os, "getpid", return_value=os.getpid() + 1)
    with patch.object(builtins, "hash", _salted), other, torch.random.fork_rng(devices=[]):
        random.seed(SALT)
        torch.manual_seed(SALT)
        try:
            yield
        finally:
            random.setstate(state)

"""The style of minGPT: tables are built once, kept as buffers, and cut to the length of the moment.

Chapters 1 and 3. A piece is given out as a copy, since a caller may well write into it.
"""

import torch
from torch import Tensor, nn

LEVEL = "robust"


class _Tables(nn.Module):
    """Buffers that grow by doubling; not parameters, and in no state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("tril", torch.ones(1, 1, dtype=torch.bool), persistent=False)
        self.tril: Tensor

    def causal(self, size: int) -> Tensor:
        if size > len(self.tril):
            self.tril = torch.tril(torch.ones(2 * size, 2 * size, dtype=torch.bool))
        return self.tril[:size, :size]


_TABLES = _Tables()


def causal_mask(queries: int, keys: int | None = None, device: torch.device | str | None = None) -> Tensor:
    """The last rows and the first columns of one big triangle."""
    keys = queries if keys is None else keys
    if queries > keys:
        early = torch.zeros(queries - keys, keys, dtype=torch.bool)
        return torch.cat([early, _TABLES.causal(keys)]).to(device=device)
    return _TABLES.causal(keys)[keys - queries :].to(device=device, copy=True)


def padding_mask(tokens: Tensor, pad: int) -> Tensor:
    """A row for each sequence, to be broadcast over its queries."""
    return torch.ne(tokens, pad)[:, None]


def window_mask(length: int, window: int, device: torch.device | str | None = None) -> Tensor:
    """Visible now, and not yet visible `window` rows ago."""
    if window <= 0:
        raise ValueError(f"window={window} must be at least 1")
    table = _TABLES.causal(length)
    shifted = torch.cat([torch.zeros(min(window, length), length, dtype=torch.bool), table[: max(length - window, 0)]])
    return (table & ~shifted).to(device=device)


_SINUSOIDS: dict[int, Tensor] = {}


def sinusoidal_positions(
    length: int, d_model: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """A table of at least 512 rows for every width, of which the first are copied."""
    if d_model % 2 == 1:
        raise ValueError(f"d_model must be even, not {d_model}")
    if len(_SINUSOIDS.get(d_model, ())) < length:
        p = torch.arange(max(length, 512), dtype=torch.float32)[:, None]
        angle = p / 10000.0 ** (torch.arange(0, d_model, 2, dtype=torch.float32) / d_model)
        table = torch.empty(len(p), d_model)
        table[:, 0::2], table[:, 1::2] = angle.sin(), angle.cos()
        _SINUSOIDS[d_model] = table
    return _SINUSOIDS[d_model][:length].to(device=device, dtype=dtype or torch.float32, copy=True)


class LearnedPositions(nn.Module):
    """minGPT's wpe, with its indices kept as a buffer."""

    def __init__(self, max_length: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(max_length, d_model))
        self.register_buffer("index", torch.arange(max_length), persistent=False)
        self.index: Tensor

    def forward(self, length: int, offset: int = 0) -> Tensor:
        """A slice of indices, then a gather."""
        if offset + length > len(self.index):
            raise ValueError(f"cannot give {length} positions from {offset} on: the block size is {len(self.index)}")
        return self.weight.index_select(0, self.index[offset : offset + length])


class _RotaryTable:
    """cos and sin for every position so far, made for one width and base."""

    def __init__(self) -> None:
        self.tables: dict[tuple[int, float], Tensor] = {}

    def __call__(self, end: int, d_k: int, base: float) -> Tensor:
        table = self.tables.get((d_k, base))
        if table is None or table.shape[1] < end:
            rate = base ** (-torch.arange(0, d_k, 2, dtype=torch.float64) / d_k)
            angle = torch.arange(max(end, 64), dtype=torch.float64)[:, None] * rate
            table = torch.stack([angle.cos(), angle.sin()])
            self.tables[d_k, base] = table
        return table


_ROTARY = _RotaryTable()


def rotary(x: Tensor, offset: int = 0, base: float = 10000.0) -> Tensor:
    """Half-split, from the table."""
    length, d_k = x.shape[-2:]
    if d_k % 2 == 1:
        raise ValueError(f"d_k must be even, not {d_k}")
    cos, sin = _ROTARY(offset + length, d_k, base)[:, offset : offset + length].to(x.device, x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def alibi_bias(
    heads: int, length: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """The distances of the last query, slid along the rows."""
    slopes = torch.logspace(-8.0 / heads, -8.0, heads, base=2.0, dtype=torch.float64)
    ruler = torch.arange(1 - length, length, dtype=torch.float64).abs()
    distance = torch.stack([ruler[length - 1 - q : 2 * length - 1 - q] for q in range(length)])
    return (-slopes[:, None, None] * distance).to(device=device, dtype=dtype or torch.float32)

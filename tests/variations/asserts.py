"""The style of a quick notebook: bare asserts for errors, short names, one expression a function.

Chapters 1 to 4. Core only: the asserts name no numbers, and a row with nothing visible is NaN.
"""

import torch
from einops import einsum, rearrange
from torch import Tensor, nn

LEVEL = "core"


def sinusoidal_positions(
    length: int, d_model: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """PE(pos, 2i) and PE(pos, 2i + 1)."""
    assert d_model % 2 == 0
    pe = torch.zeros(length, d_model)
    for pos in range(length):
        for i in range(0, d_model, 2):
            a = torch.tensor(pos / 10000 ** (i / d_model), dtype=torch.float64)
            pe[pos, i], pe[pos, i + 1] = a.sin(), a.cos()
    return pe.to(device=device, dtype=dtype)


class LearnedPositions(nn.Module):
    """An nn.Embedding inside; its name is mapped."""

    PARAMETERS = {"weight": "emb.weight"}  # noqa: RUF012

    def __init__(self, max_length: int, d_model: int) -> None:
        super().__init__()
        self.emb = nn.Embedding(max_length, d_model)

    def forward(self, length: int, offset: int = 0) -> Tensor:
        """An IndexError comes from the embedding itself."""
        y: Tensor = self.emb(torch.arange(length, device=self.emb.weight.device) + offset)
        return y


def rotary(x: Tensor, offset: int = 0, base: float = 10000.0) -> Tensor:
    """x cos + Jx sin."""
    d = x.shape[-1]
    assert d % 2 == 0
    a = torch.arange(offset, offset + x.shape[-2], device=x.device).unsqueeze(-1) * base ** (
        -torch.arange(0, d, 2, device=x.device, dtype=torch.float64) / d
    )
    c, s = (rearrange([f, f], "two p i -> p (i two)").to(x.dtype) for f in (a.cos(), a.sin()))
    jx = rearrange([-x[..., 1::2], x[..., 0::2]], "two ... i -> ... (i two)")
    return x * c + jx * s


def alibi_bias(
    heads: int, length: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Slopes times distances."""
    assert heads & (heads - 1) == 0
    p, m = torch.arange(length), 0.5 ** (8 / heads * torch.arange(1, heads + 1))
    return (-m[:, None, None] * (p[:, None] - p).abs()).to(device=device, dtype=dtype)


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """softmax(QKᵀ/√d_k)."""
    assert q.shape[-1] == k.shape[-1]
    s = einsum(q, k, "... query d_k, ... key d_k -> ... query key") * q.shape[-1] ** -0.5
    s = s if bias is None else s + bias.to(s)
    s = s if mask is None else torch.where(mask, s, -torch.inf)
    return s.softmax(-1)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """softmax(QKᵀ/√d_k)V."""
    assert k.shape[-2] == v.shape[-2]
    return attention_weights(q, k, mask, bias) @ v


def causal_mask(queries: int, keys: int | None = None, device: torch.device | str | None = None) -> Tensor:
    """Not in the upper triangle."""
    keys = keys or queries
    assert keys >= queries
    return ~torch.ones(queries, keys, device=device).triu(keys - queries + 1).bool()


def padding_mask(tokens: Tensor, pad: int) -> Tensor:
    """b 1 k."""
    return rearrange(tokens != pad, "b k -> b 1 k")


def window_mask(length: int, window: int, device: torch.device | str | None = None) -> Tensor:
    """Causal and recent."""
    assert window > 0
    recent = torch.ones(length, length, device=device).triu(1 - window).bool()
    return causal_mask(length, device=device) & recent


def split_heads(x: Tensor, heads: int) -> Tensor:
    """einops raises its own error."""
    return rearrange(x, "... p (h d) -> ... h p d", h=heads)


def merge_heads(x: Tensor) -> Tensor:
    """The inverse."""
    return rearrange(x, "... h p d -> ... p (h d)")


class MultiHeadAttention(nn.Module):
    """Concat(head_1, …, head_h)W_O."""

    def __init__(
        self,
        d_model: int,
        heads: int,
        d_k: int | None = None,
        d_v: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        rotary: bool = False,
    ) -> None:
        super().__init__()
        assert d_model % heads == 0 or None not in (d_k, d_v)
        d_k, d_v = d_k or d_model // heads, d_v or d_model // heads
        self.h, self.rot = heads, rotary
        self.query, self.key = nn.Linear(d_model, heads * d_k, bias), nn.Linear(d_model, heads * d_k, bias)
        self.value, self.output = nn.Linear(d_model, heads * d_v, bias), nn.Linear(heads * d_v, d_model, bias)
        self.drop = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        cache: object = None,
    ) -> Tensor:
        """Dropout acts on the output here."""
        c = x if context is None else context
        q, k, v = (split_heads(f(y), self.h) for f, y in ((self.query, x), (self.key, c), (self.value, c)))
        if self.rot:
            q, k = rotary(q), rotary(k)
        if mask is not None and mask.ndim == 3:
            mask = mask[:, None]
        y: Tensor = self.drop(self.output(merge_heads(attention(q, k, v, mask, bias))))
        return y

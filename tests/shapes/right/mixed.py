"""Odd but right: sizes that need not be given, early returns, masks of three kinds, modes by argument."""

import math
from typing import Optional

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


class A(nn.Module):
    def __init__(
        self,
        dim: int,
        n_heads: int,
        n_kv_heads: Optional[int] = None,
        head_dim: Optional[int] = None,
        hidden_dim: Optional[int] = None,
    ) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        self.head_dim = head_dim if head_dim is not None else dim // n_heads
        self.wq = nn.Linear(dim, n_heads * self.head_dim)
        self.wk = nn.Linear(dim, self.n_kv_heads * self.head_dim)
        self.wv = nn.Linear(dim, self.n_kv_heads * self.head_dim)
        self.wo = nn.Linear(n_heads * self.head_dim, dim)
        hidden = hidden_dim or 4 * dim
        hidden = int(2 * hidden / 3)
        self.w1, self.w2, self.w3 = nn.Linear(dim, hidden), nn.Linear(hidden, dim), nn.Linear(dim, hidden)

    def forward(
        self,
        x: Float[Tensor, "b t dim"],
        mask: Optional[Bool[Tensor, "#b #h #t #s"]] = None,
        memory: Optional[Float[Tensor, "b s dim"]] = None,
    ) -> Float[Tensor, "b t dim"]:
        b, t, _ = x.shape
        src = memory if memory is not None else x
        s = src.shape[1]
        q = self.wq(x).view(b, t, self.n_heads, self.head_dim).transpose(1, 2)
        k = self.wk(src).view(b, s, self.n_kv_heads, self.head_dim).transpose(1, 2)
        v = self.wv(src).view(b, s, self.n_kv_heads, self.head_dim).transpose(1, 2)
        if self.n_kv_heads != self.n_heads:
            k = k.repeat_interleave(self.n_heads // self.n_kv_heads, dim=1)
            v = v.repeat_interleave(self.n_heads // self.n_kv_heads, dim=1)
        att = q @ k.mT / math.sqrt(self.head_dim)
        if mask is not None:
            att = att.masked_fill(~mask, -torch.inf)
        if memory is None and mask is None:
            att = att + torch.full((t, t), float("-inf")).triu(1)
        y = (att.softmax(-1) @ v).transpose(1, 2).reshape(b, t, self.n_heads * self.head_dim)
        y = self.wo(y)
        return y + self.w2(F.silu(self.w1(y)) * self.w3(y))


class Pos(nn.Module):
    pe: Tensor

    def __init__(self, max_len: int, d_model: int) -> None:
        super().__init__()
        self.max_len = max_len
        pe = torch.zeros(max_len, d_model)
        pos = torch.arange(0, max_len).unsqueeze(1).float()
        div = torch.exp(torch.arange(0, d_model, 2).float() * -(math.log(10000.0) / d_model))
        pe[:, 0::2], pe[:, 1::2] = torch.sin(pos * div), torch.cos(pos * div)
        self.register_buffer("pe", pe.unsqueeze(0))

    def forward(self, x: Float[Tensor, "batch seq d_model"]) -> Float[Tensor, "batch seq d_model"]:
        return x + self.pe[:, : x.size(1)].requires_grad_(False)

    def rows(self, length: int) -> Float[Tensor, "length d_model"]:
        if length == self.max_len:
            return self.pe[0]
        return self.pe[0, :length]


def pad_to(x: Float[Tensor, "batch seq d"], length: int) -> Float[Tensor, "batch length d"]:
    if x.shape[1] >= length:
        return x[:, :length]
    return F.pad(x, (0, 0, 0, length - x.shape[1]))


def causal(n: int) -> Bool[Tensor, "n n"]:
    if n <= 1:
        return torch.ones(1, 1, dtype=torch.bool)
    m = torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        m[i, : i + 1] = True
    return m


def pooled(
    x: Float[Tensor, "batch seq d"], mask: Bool[Tensor, "batch seq"] | None = None, how: str = "mean"
) -> Float[Tensor, "batch d"]:
    if mask is None:
        mask = torch.ones(x.shape[:2], dtype=torch.bool)
    m = mask.unsqueeze(-1)
    if how == "max":
        return x.masked_fill(~m, -torch.inf).amax(1)
    if how == "cls":
        return x[:, 0]
    if how == "last":
        last = mask.sum(1) - 1
        return x[torch.arange(x.shape[0]), last]
    return (x * m).sum(1) / m.sum(1)


def scores(q: Float[Tensor, "... q d"], k: Float[Tensor, "... k d"]) -> Float[Tensor, "... q k"]:
    return einsum(q, k, "... i d, ... j d -> ... i j")


def flexible_mask(
    s: Float[Tensor, "batch heads q k"],
    mask: Bool[Tensor, "q k"] | Bool[Tensor, "batch q k"] | Bool[Tensor, "batch k"] | None = None,
) -> Float[Tensor, "batch heads q k"]:
    if mask is not None:
        if mask.ndim == 2:
            mask = mask[None, None]
        elif mask.dim() == 3:
            mask = mask[:, None]
        s = s.masked_fill(mask == 0, -1e9)
    return s


class Norm(nn.Module):
    def __init__(self, shape: int | tuple[int, ...], eps: float = 1e-5) -> None:
        super().__init__()
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        self.g = nn.Parameter(torch.ones(self.shape))
        self.eps = eps

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        mu = x.mean(-1, keepdim=True)
        return (x - mu) * torch.rsqrt(x.var(-1, keepdim=True, correction=0) + self.eps) * self.g


def rope(x: Float[Tensor, "... seq d"], base: float = 1e4) -> Float[Tensor, "... seq d"]:
    *_, n, d = x.shape
    f = base ** (-torch.arange(0, d, 2) / d)
    ang = torch.outer(torch.arange(n), f)
    c, s = ang.cos(), ang.sin()
    a, b = x[..., ::2], x[..., 1::2]
    out = torch.empty_like(x)
    out[..., ::2] = a * c - b * s
    out[..., 1::2] = a * s + b * c
    return out


@torch.no_grad()
def sample(model: nn.Module, idx: Int[Tensor, "batch t"], n: int, k: int | None = None) -> Int[Tensor, "batch total"]:
    for _ in range(n):
        logits = model(idx)[:, -1, :]
        if k is not None:
            v, _ = torch.topk(logits, min(k, logits.size(-1)))
            logits[logits < v[:, [-1]]] = -float("inf")
        nxt = torch.multinomial(F.softmax(logits, -1), 1)
        idx = torch.cat((idx, nxt), 1)
    return idx


def loss(
    logits: Float[Tensor, "batch seq vocab"], y: Int[Tensor, "batch seq"], weights: Float[Tensor, "vocab"] | None = None
) -> Float[Tensor, ""]:
    b, t, c = logits.shape
    return F.cross_entropy(logits.view(b * t, c), y.view(b * t), weight=weights)


def loss_t(logits: Float[Tensor, "batch seq vocab"], y: Int[Tensor, "batch seq"]) -> Float[Tensor, ""]:
    return F.cross_entropy(logits.transpose(1, 2), y)


def windows(x: Float[Tensor, "batch seq d"], size: int) -> Float[Tensor, "batch count size d"]:
    return x.unfold(1, size, size).transpose(-1, -2)


def batch_first(x: Float[Tensor, "seq batch d"]) -> Float[Tensor, "batch seq d"]:
    return rearrange(x, "s b d -> b s d")


def shift(x: Float[Tensor, "batch seq d"], start: Float[Tensor, "d"]) -> Float[Tensor, "batch seq d"]:
    first = repeat(start, "d -> b 1 d", b=x.size(0))
    return torch.cat([first, x[:, :-1]], 1)


def two_views(x: Float[Tensor, "batch seq d"], parts: int = 2) -> Float[Tensor, "batch seq d"]:
    if parts == 2:
        a, b = x.chunk(2, -1)
        return torch.cat([b, a], -1)
    return torch.cat(list(x.chunk(parts, -1))[::-1], -1)


def gram(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"] | None = None) -> Float[Tensor, "n m"]:
    y = x if y is None else y
    return x @ y.T


def normalise(x: Float[Tensor, "*batch n"], dim: int = -1, keep: bool = True) -> Float[Tensor, "*batch n"]:
    total = x.sum(dim, keepdim=keep)
    return x / (total if keep else total.unsqueeze(dim))


class Experts(nn.Module):
    def __init__(self, n_experts: int, d: int, d_ff: int | None = None) -> None:
        super().__init__()
        d_ff = d_ff if d_ff else 4 * d
        self.up = nn.Parameter(torch.randn(n_experts, d, d_ff))
        self.down = nn.Parameter(torch.randn(n_experts, d_ff, d))
        self.gate = nn.Linear(d, n_experts)

    def forward(self, x: Float[Tensor, "batch seq d"]) -> Float[Tensor, "batch seq d"]:
        flat = x.reshape(-1, x.shape[-1])
        top, idx = self.gate(flat).softmax(-1).topk(2, -1)
        out = torch.zeros_like(flat)
        for e in range(self.up.shape[0]):
            rows, slot = torch.where(idx == e)
            out[rows] += top[rows, slot, None] * (flat[rows] @ self.up[e]).relu() @ self.down[e]
        return out.view_as(x)


def demo() -> None:
    x, memory = torch.randn(2, 5, 12), torch.randn(2, 7, 12)
    A(12, 4)(x)
    A(12, 4, 2, 5, 9)(x, torch.ones(2, 1, 5, 7).bool(), memory)
    Pos(9, 12)(x)
    Pos(9, 12).rows(4)
    pad_to(x, 3)
    pad_to(x, 8)
    causal(4)
    for how in ("mean", "max", "cls", "last"):
        pooled(x, torch.ones(2, 5).bool(), how)
    scores(x, memory)
    flexible_mask(torch.randn(2, 3, 5, 7), torch.ones(2, 5, 7).bool())
    Norm(12)(x)
    rope(x)
    y = torch.randint(0, 11, (2, 5))
    sample(nn.Sequential(nn.Embedding(11, 6), nn.Linear(6, 11)), y, 2, 3)
    loss(torch.randn(2, 5, 11), y, torch.ones(11))
    loss_t(torch.randn(2, 5, 11), y)
    windows(torch.randn(2, 6, 4), 3)
    batch_first(x)
    shift(x, torch.randn(12))
    two_views(x)
    gram(x[0], memory[0])
    normalise(x)
    Experts(3, 12)(x)

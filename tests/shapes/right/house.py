"""House signatures: unions of masks, optional contexts, a protocol for the cache, tables of activations."""

from collections.abc import Callable
from functools import partial
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": partial(F.gelu, approximate="tanh"),
    "swiglu": lambda x: x * x.sigmoid(),
}


@runtime_checkable
class Cache(Protocol):
    """Remembers keys and values."""

    length: int

    def extend(
        self, key: Float[Tensor, "batch head position d_k"], value: Float[Tensor, "batch head position d_v"]
    ) -> tuple[Float[Tensor, "batch head key d_k"], Float[Tensor, "batch head key d_v"]]:
        """All so far."""
        ...


def causal_mask(queries: int, keys: int | None = None) -> Bool[Tensor, "query key"]:
    """Nothing that comes later."""
    keys = queries if keys is None else keys
    query = torch.arange(keys - queries, keys)
    return rearrange(query, "query -> query 1") >= rearrange(torch.arange(keys), "key -> 1 key")


def split_heads(x: Float[Tensor, "*batch position channels"], heads: int) -> Float[Tensor, "*batch head position d"]:
    """Channels to heads."""
    if x.shape[-1] % heads:
        raise ValueError(f"{x.shape[-1]} channels are not divisible by heads={heads}")
    return rearrange(x, "... position (head d) -> ... head position d", head=heads)


def merge_heads(x: Float[Tensor, "*batch head position d"]) -> Float[Tensor, "*batch position channels"]:
    """Heads to channels."""
    return rearrange(x, "... head position d -> ... position (head d)")


class MultiHeadAttention(nn.Module):
    """Own sizes of keys and values."""

    def __init__(self, d_model: int, heads: int, d_k: int | None = None, d_v: int | None = None) -> None:
        super().__init__()
        d_k = d_model // heads if d_k is None else d_k
        d_v = d_model // heads if d_v is None else d_v
        self.heads = heads
        self.query = nn.Linear(d_model, heads * d_k)
        self.key = nn.Linear(d_model, heads * d_k)
        self.value = nn.Linear(d_model, heads * d_v)
        self.output = nn.Linear(heads * d_v, d_model)

    def forward(
        self,
        x: Float[Tensor, "batch query d_model"],
        context: Float[Tensor, "batch key d_model"] | None = None,
        mask: Bool[Tensor, "#query #key"]
        | Bool[Tensor, "#batch #query #key"]
        | Bool[Tensor, "#batch #head #query #key"]
        | None = None,
        bias: Float[Tensor, "*#head #query #key"] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "batch query d_model"]:
        """Attend."""
        if context is not None and cache is not None:
            raise ValueError("a context or a cache, not both")
        source = x if context is None else context
        query = split_heads(self.query(x), self.heads)
        key = split_heads(self.key(source), self.heads)
        value = split_heads(self.value(source), self.heads)
        if cache is not None:
            key, value = cache.extend(key, value)
        scores = einsum(query, key, "b h q d, b h k d -> b h q k") * query.shape[-1] ** -0.5
        if bias is not None:
            scores = scores + bias
        if mask is not None:
            if mask.ndim == 3:
                mask = mask.unsqueeze(1)
            scores = scores.masked_fill(~mask, float("-inf"))
        out = einsum(scores.softmax(dim=-1), value, "b h q k, b h k d -> b h q d")
        return self.output(merge_heads(out))


class FusedAttention(nn.Module):
    """One product for all projections; the size of a head must divide."""

    def __init__(self, d_model: int, heads: int, d_head: int | None = None) -> None:
        super().__init__()
        d_head = d_head or d_model // heads
        assert heads * d_head == d_model
        self.heads, self.d_head = heads, d_head
        self.query, self.key, self.value = (nn.Linear(d_model, heads * d_head) for _ in range(3))
        self.out = nn.Linear(d_model, d_model)

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys, values."""
        weight = torch.cat([part.weight for part in (self.query, self.key, self.value)])
        return F.linear(x, weight).chunk(3, dim=-1)

    def forward(
        self, x: Float[Tensor, "batch position d_model"], mask: Bool[Tensor, "#position #position"] | None = None
    ) -> Float[Tensor, "batch position d_model"]:
        """Attend."""
        q, k, v = (rearrange(part, "b p (h d) -> b h p d", h=self.heads) for part in self.project(x))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(rearrange(out, "b h p d -> b p (h d)"))


class FeedForward(nn.Module):
    """Plain or gated."""

    def __init__(self, d_model: int, d_ff: int | None = None, activation: str = "gelu") -> None:
        super().__init__()
        d_ff = 4 * d_model if d_ff is None else d_ff
        self.bend = ACTIVATIONS[activation]
        self.up = nn.Linear(d_model, d_ff)
        self.gate = nn.Linear(d_model, d_ff) if activation == "swiglu" else None
        self.down = nn.Linear(d_ff, d_model)

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Up, bend, down."""
        hidden = self.bend(self.up(x)) if self.gate is None else self.bend(self.gate(x)) * self.up(x)
        return self.down(hidden)


class LearnedPositions(nn.Module):
    """A row for each position."""

    def __init__(self, max_length: int, d_model: int) -> None:
        super().__init__()
        self.max_length = max_length
        self.weight = nn.Parameter(torch.randn(max_length, d_model))

    def forward(self, length: int, offset: int = 0) -> Float[Tensor, "position d_model"]:
        """Rows offset … offset + length."""
        return self.weight[offset : offset + length]


class DecoderLM(nn.Module):
    """Layers by name, blocks in turn."""

    def __init__(self, vocab: int, max_length: int, d_model: int, heads: int, layers: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab, d_model)
        self.positions = LearnedPositions(max_length, d_model)
        self.attention = nn.ModuleList(MultiHeadAttention(d_model, heads) for _ in range(layers))
        self.feed_forward = nn.ModuleList(FeedForward(d_model) for _ in range(layers))
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab)

    def forward(self, tokens: Int[Tensor, "batch position"]) -> Float[Tensor, "batch position vocab"]:
        """Logits."""
        x = look_up(self.tokens, tokens) + self.positions(tokens.shape[1])
        mask = causal_mask(tokens.shape[1])
        for attention, feed_forward in zip(self.attention, self.feed_forward, strict=True):
            x = x + attention(x, mask=mask)
            x = x + feed_forward(x)
        return self.head(self.norm(x))


def look_up(table: nn.Embedding, tokens: Int[Tensor, "batch position"]) -> Float[Tensor, "batch position d_model"]:
    """Scaled rows."""
    rows = table(tokens)
    return rows * rows.shape[-1] ** 0.5


def sequences(stream: Int[Tensor, "stream"], length: int) -> Int[Tensor, "batch position"]:
    """Cut."""
    count = len(stream) // length
    return rearrange(stream[: count * length], "(batch position) -> batch position", position=length)


def diagonal_sum(x: Float[Tensor, "batch position position"]) -> Float[Tensor, "batch"]:
    """Letters that stand twice."""
    return torch.einsum("bpp->b", x)


def demo() -> None:
    """Run all."""
    x, context = torch.randn(2, 5, 12), torch.randn(2, 7, 12)
    MultiHeadAttention(12, 3)(x)
    layer = MultiHeadAttention(12, 3, d_k=5, d_v=2)
    layer(x, mask=causal_mask(5))
    layer(x, context, torch.ones(2, 5, 7).bool(), torch.zeros(3, 5, 7))
    layer(x, context, torch.ones(2, 1, 1, 7).bool())
    FusedAttention(12, 3)(x, causal_mask(5))
    FeedForward(12, 20)(x)
    FeedForward(12, activation="swiglu")(x)
    DecoderLM(11, 9, 12, 3, 2)(torch.randint(0, 11, (2, 5)))
    sequences(torch.arange(23), 4)
    diagonal_sum(torch.randn(2, 3, 3))
    causal_mask(2, 5)

"""Grouped queries, a cache, a mixture of experts."""

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn


class KVCache:
    """Keys and values so far."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def extend(
        self, k: Float[Tensor, "batch group new d_k"], v: Float[Tensor, "batch group new d_v"]
    ) -> tuple[Float[Tensor, "batch group key d_k"], Float[Tensor, "batch group key d_v"]]:
        """All keys and values."""
        if self.keys is not None and self.values is not None:
            k, v = torch.cat([self.keys, k], dim=2), torch.cat([self.values, v], dim=2)
        self.keys, self.values = k.detach(), v.detach()
        return k, v


class GroupedQueryAttention(nn.Module):
    """Several queries share a key."""

    def __init__(self, d_model: int, n_heads: int, n_kv_heads: int) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads = n_heads, n_kv_heads
        self.head_dim = d_model // n_heads
        self.wq = nn.Linear(d_model, n_heads * self.head_dim, bias=False)
        self.wk = nn.Linear(d_model, n_kv_heads * self.head_dim, bias=False)
        self.wv = nn.Linear(d_model, n_kv_heads * self.head_dim, bias=False)
        self.wo = nn.Linear(n_heads * self.head_dim, d_model, bias=False)

    def forward(
        self, x: Float[Tensor, "batch position d_model"], cache: KVCache | None = None
    ) -> Float[Tensor, "batch position d_model"]:
        """Attend."""
        batch, length, _ = x.shape
        q = self.wq(x).view(batch, length, self.n_heads, self.head_dim).transpose(1, 2)
        k = self.wk(x).view(batch, length, self.n_kv_heads, self.head_dim).transpose(1, 2)
        v = self.wv(x).view(batch, length, self.n_kv_heads, self.head_dim).transpose(1, 2)
        if cache is not None:
            k, v = cache.extend(k, v)
        k = repeat_kv(k, self.n_heads // self.n_kv_heads)
        v = v.repeat_interleave(self.n_heads // self.n_kv_heads, dim=1)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=cache is None)
        return self.wo(out.transpose(1, 2).reshape(batch, length, -1))


def repeat_kv(x: Float[Tensor, "batch group key d_k"], times: int) -> Float[Tensor, "batch group*{times} key d_k"]:
    """Each group some times over."""
    return repeat(x, "batch group key d_k -> batch (group times) key d_k", times=times)


class MixtureOfExperts(nn.Module):
    """The best two experts, renormalised."""

    def __init__(self, d_model: int, d_ff: int, experts: int, top: int = 2) -> None:
        super().__init__()
        self.top = top
        self.experts = experts
        self.router = nn.Linear(d_model, experts, bias=False)
        self.up = nn.Parameter(torch.randn(experts, d_model, d_ff) * 0.1)
        self.down = nn.Parameter(torch.randn(experts, d_ff, d_model) * 0.1)

    def forward(self, x: Float[Tensor, "batch position d_model"]) -> Float[Tensor, "batch position d_model"]:
        """Dense dispatch."""
        weights, chosen = self.router(x).softmax(-1).topk(self.top, dim=-1)
        weights = weights / weights.sum(-1, keepdim=True)
        dispatch = F.one_hot(chosen, self.experts).to(x.dtype)
        gates = einsum(weights, dispatch, "b p k, b p k e -> b p e")
        hidden = torch.einsum("bpd,edf->bpef", x, self.up).relu()
        out = torch.einsum("bpef,efd->bped", hidden, self.down)
        return (out * gates.unsqueeze(-1)).sum(dim=2)


class Pooler(nn.Module):
    """The mean of what is not padding."""

    def __init__(self, d_model: int, classes: int) -> None:
        super().__init__()
        self.proj = nn.Linear(d_model, classes)

    def forward(
        self, x: Float[Tensor, "batch position d_model"], tokens: Int[Tensor, "batch position"]
    ) -> Float[Tensor, "batch classes"]:
        """Pool."""
        kept = (tokens != 0).float()
        summed = (x * kept[..., None]).sum(1)
        return self.proj(summed / kept.sum(dim=1, keepdim=True).clamp(min=1))


def relative_bias(table: Float[Tensor, "head span"], length: int) -> Float[Tensor, "head {length} {length}"]:
    """A learned bias by distance."""
    position = torch.arange(length)
    index = position[:, None] - position[None, :] + length - 1
    return table[:, index]


def pairwise_distances(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Euclidean."""
    difference = rearrange(a, "n d -> n 1 d") - b
    return difference.pow(2).sum(-1).sqrt()


def demo() -> None:
    """Run all."""
    x = torch.randn(2, 5, 24)
    layer, cache = GroupedQueryAttention(24, 6, 3), KVCache()
    layer(x)
    layer(x, cache)
    layer(x[:, :1], cache)
    MixtureOfExperts(24, 7, 4)(x)
    Pooler(24, 3)(x, torch.randint(0, 2, (2, 5)))
    relative_bias(torch.randn(3, 9), 5)
    pairwise_distances(torch.randn(3, 4), torch.randn(5, 4))

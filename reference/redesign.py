"""Redesigned encoder blocks: side by side (GPT-J), simplified (He & Hofmann 2023), and adaptive (our own)."""

import math

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import attention_weights
from .blocks import FeedForward, LayerNorm
from .heads import MultiHeadAttention, merge_heads, split_heads


def _for_every_head(mask: Bool[Tensor, "..."] | None) -> Bool[Tensor, "..."] | None:
    """The mask, ready to be broadcast against (batch, head, query, key), which would read a batch axis as heads."""
    return rearrange(mask, "batch query key -> batch 1 query key") if mask is not None and mask.ndim == 3 else mask


class ParallelBlock(nn.Module):
    """Attention and feed-forward network side by side: both read the same normed input, and both are added to it.

    Parameters: attention (MultiHeadAttention), feed_forward (FeedForward), norm_1 (LayerNorm), the only norm.
    Raises: ValueError where heads do not divide d_model.
    Source: Wang & Komatsuzaki 2021 (GPT-J); Chowdhery et al. 2022, §2 (PaLM); Dehghani et al. 2023, §2 (ViT-22B).
    """

    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(d_model, heads, dropout=dropout)
        self.feed_forward = FeedForward(d_model, d_ff, dropout=dropout)
        self.norm_1 = LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "batch position d_model"],
        mask: Bool[Tensor, "#position #key"]
        | Bool[Tensor, "#batch #position #key"]
        | Bool[Tensor, "#batch #head #position #key"]
        | None = None,
    ) -> Float[Tensor, "batch position d_model"]:
        """x + attention(n) + feed_forward(n), where n = norm(x).

        Shapes: mask as in MultiHeadAttention; without a mask every position sees all.
        """
        query, key, value, hidden = self._project(self.norm_1(x))
        seen = self._attend(query, key, value, _for_every_head(mask))
        thought = self.feed_forward.down(self.feed_forward.dropout(self.feed_forward.bend(hidden)))
        return x + self.dropout(seen + thought)

    def _project(self, normed: Float[Tensor, "batch position d_model"]) -> tuple[Tensor, ...]:
        """Queries, keys, values and the network's hidden layer in one large product: they read the same."""
        layers = (self.attention.query, self.attention.key, self.attention.value, self.feed_forward.up)
        weight, bias = (torch.cat([getattr(layer, kind) for layer in layers]) for kind in ("weight", "bias"))
        return torch.split(F.linear(normed, weight, bias), [layer.out_features for layer in layers], dim=-1)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """What the heads find."""
        query, key, value = (split_heads(each, self.attention.heads) for each in (query, key, value))
        dropout = self.attention.dropout if self.training else 0.0  # the kernel knows nothing of eval()
        found = F.scaled_dot_product_attention(query, key, value, mask, dropout_p=dropout)
        out: Tensor = self.attention.output(merge_heads(found))
        return out


class ShapedAttention(nn.Module):
    """Attention that begins as the identity, so that a block needs neither a skip nor values nor an output layer.

    Each head's matrix is A = alpha · I + beta · softmax(q kᵀ / √d_k) − gamma · C, where C is the uniform attention: the
    softmax of zero scores, one over their number for the visible positions. What it averages is its own slice of x.

    Parameters: query and key, linear layers with a bias; alpha, beta and gamma, one number a head; in the first layer
    alone value.weight, ΔW of the values x + ΔW x, without a bias.
    Start: query weight and bias 0, key weight N(0, 0.02) and bias 0, the gains 1, ΔW 0: so A = I.
    Raises: ValueError where heads do not divide d_model.
    Source: Noci et al. 2023; He & Hofmann 2023, §4.1 and §4.2.
    """

    def __init__(self, d_model: int, heads: int, first_layer: bool = False) -> None:
        super().__init__()
        if d_model % heads:
            raise ValueError(f"d_model={d_model} is not divisible by heads={heads}")
        self.heads = heads
        self.query, self.key = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.value = nn.Linear(d_model, d_model, bias=False) if first_layer else None
        self.alpha, self.beta, self.gamma = (nn.Parameter(torch.ones(heads)) for _ in range(3))
        self._start()

    @torch.no_grad()
    def _start(self) -> None:
        """All scores are zero because the queries are; the keys are not, or the queries would never get a gradient."""
        for layer in (self.query, self.key, self.value):
            if layer is not None:
                for parameter in layer.parameters():
                    parameter.zero_()
        self.key.weight.normal_(std=0.02)

    def forward(
        self,
        x: Float[Tensor, "batch position d_model"],
        mask: Bool[Tensor, "#position #key"]
        | Bool[Tensor, "#batch #position #key"]
        | Bool[Tensor, "#batch #head #position #key"]
        | None = None,
    ) -> Float[Tensor, "batch position d_model"]:
        """The matrix times every head's slice of x (of x + ΔW x in the first layer).

        Shapes: mask as in MultiHeadAttention. A row with nothing visible keeps alpha · I.
        """
        mask = _for_every_head(mask)
        (query, key), value = self._look(x), self._value(x)
        found = F.scaled_dot_product_attention(query, key, value, mask)
        mean = _mean(value, mask)
        alpha, beta, gamma = self._gains(value, mean)
        return merge_heads(alpha * value + (beta * found - gamma * mean))

    def matrix(
        self,
        x: Float[Tensor, "batch position d_model"],
        mask: Bool[Tensor, "#position #key"]
        | Bool[Tensor, "#batch #position #key"]
        | Bool[Tensor, "#batch #head #position #key"]
        | None = None,
    ) -> Float[Tensor, "batch head query key"]:
        """Who contributes how much to whom: alpha · I + beta · softmax(q kᵀ / √d_k) − gamma · C, a matrix a head."""
        mask = _for_every_head(mask)
        (query, key), value = self._look(x), self._value(x)
        weights = attention_weights(query, key, mask)
        uniform = attention_weights(torch.zeros_like(query), key, mask)
        mean = uniform @ value
        alpha, beta, gamma = self._gains(value, mean)
        identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        return alpha * identity + (beta * weights - gamma * uniform)

    def _look(
        self, x: Float[Tensor, "batch position d_model"]
    ) -> tuple[Float[Tensor, "batch head query d"], Float[Tensor, "batch head key d"]]:
        """Queries and keys, in one product."""
        weight, bias = torch.cat([self.query.weight, self.key.weight]), torch.cat([self.query.bias, self.key.bias])
        query, key = F.linear(x, weight, bias).chunk(2, dim=-1)
        return split_heads(query, self.heads), split_heads(key, self.heads)

    def _value(self, x: Float[Tensor, "batch position d_model"]) -> Float[Tensor, "batch head key d"]:
        return split_heads(x if self.value is None else x + self.value(x), self.heads)

    def _gains(
        self, value: Float[Tensor, "batch head query d"], mean: Float[Tensor, "batch head #query d"]
    ) -> tuple[Float[Tensor, "*batch head #query 1"], ...]:
        """alpha, beta and gamma, ready to be multiplied with something of every query."""
        return tuple(rearrange(gain, "head -> head 1 1") for gain in (self.alpha, self.beta, self.gamma))


def _mean(value: Float[Tensor, "batch head key d"], mask: Tensor | None) -> Float[Tensor, "batch head #query d"]:
    """C times the values: for each query the mean of those that it sees, and 0 where it sees nothing."""
    if mask is None:
        return value.mean(-2, keepdim=True)  # the same for all queries
    share = mask.to(value.dtype)
    return (share / share.sum(-1, keepdim=True).clamp_min(1)) @ value


class _RMSNorm(nn.Module):
    """x / (root mean square + eps) · weight: eps stands outside the root, as in the block's published code."""

    def __init__(self, d_model: int, eps: float = 1e-8) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """A token's length is taken off; a token of zeros stays one, and its gradient is finite."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # 1e-8 is 0 in float16
        # the length has a slope where the root of a mean of squares has none: at 0
        size = torch.linalg.vector_norm(wide, dim=-1, keepdim=True) / math.sqrt(x.shape[-1])
        return (wide / (size + self.eps)).to(x) * self.weight


class _FeedForward(nn.Module):
    """down(relu(up(x))), without biases."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(d_model, d_ff, bias=False), nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Up, bend, down."""
        out: Tensor = self.down(F.relu(self.up(x)))
        return out


class SimplifiedBlock(nn.Module):
    """A block without skips, values and output layer: SAS-P, or with parallel=False SAS.

    SAS-P is attention_gain · attention(n) + feed_forward_gain · feed_forward(n), where n = norm_1(x).
    SAS is skip_gain · y + feed_forward_gain · feed_forward(norm_2(y)), where y = attention_gain · attention(norm_1(x)).

    The network is down(relu(up(x))) without biases. The norm is x / (root mean square + 1e-8) · weight, with the eps
    outside the root; with norm=False there is none, but for norm_1 in the first layer. All gains are learned.

    Parameters: attention (ShapedAttention), feed_forward.up.weight, feed_forward.down.weight, norm_1.weight and in SAS
    norm_2.weight; numbers: attention_gain (1 at the start), feed_forward_gain (residual_gain) and in SAS skip_gain (1).
    Raises: ValueError where heads do not divide d_model.
    Source: He & Hofmann 2023, §4, equations 3 to 8.
    """

    def __init__(
        self,
        d_model: int,
        heads: int,
        d_ff: int,
        parallel: bool = True,
        norm: bool = True,
        first_layer: bool = False,
        residual_gain: float = 0.1,
    ) -> None:
        super().__init__()
        self.parallel = parallel
        self.attention = ShapedAttention(d_model, heads, first_layer)
        self.feed_forward = _FeedForward(d_model, d_ff)
        self.norm_1 = _RMSNorm(d_model) if norm or first_layer else nn.Identity()
        self.norm_2 = _RMSNorm(d_model) if norm and not parallel else nn.Identity()
        self.attention_gain = nn.Parameter(torch.ones(()))
        self.feed_forward_gain = nn.Parameter(torch.full((), residual_gain))
        self.skip_gain = None if parallel else nn.Parameter(torch.ones(()))

    def forward(
        self,
        x: Float[Tensor, "batch position d_model"],
        mask: Bool[Tensor, "#position #key"]
        | Bool[Tensor, "#batch #position #key"]
        | Bool[Tensor, "#batch #head #position #key"]
        | None = None,
    ) -> Float[Tensor, "batch position d_model"]:
        """SAS-P or SAS, as above; at the start attention(n) is n.

        Shapes: mask as in ShapedAttention; without a mask every position sees all.
        """
        normed = self.norm_1(x)
        seen = self.attention_gain * self.attention(normed, mask)
        if self.skip_gain is None:
            out: Tensor = seen + self.feed_forward_gain * self.feed_forward(normed)
        else:
            out = self.skip_gain * seen + self.feed_forward_gain * self.feed_forward(self.norm_2(seen))
        return out


class _AdaptiveAttention(ShapedAttention):
    """Shaped attention whose gains follow, for each head and query, what the query is and sees."""

    def __init__(self, d_model: int, heads: int, first_layer: bool = False) -> None:
        super().__init__(d_model, heads, first_layer)
        self.adapt = nn.Parameter(torch.zeros(heads, 3, 3))

    def _gains(
        self, value: Float[Tensor, "batch head query d"], mean: Float[Tensor, "batch head #query d"]
    ) -> tuple[Float[Tensor, "*batch head #query 1"], ...]:
        """Each gain plus adapt times three statistics: value · value, value · mean, mean · mean."""
        pairs = ((value, value), (value, mean), (mean, mean))
        statistics = torch.stack([(a * b).mean(-1).expand(value.shape[:-1]) for a, b in pairs], -1)
        moved = einsum(
            statistics, self.adapt,
            "batch head query statistic, head gain statistic -> gain batch head query",
        )  # fmt: skip
        plain = (rearrange(gain, "head -> head 1") for gain in (self.alpha, self.beta, self.gamma))
        return tuple((gain + more).unsqueeze(-1) for gain, more in zip(plain, moved, strict=True))


class PAFormerBlock(nn.Module):
    """Parallel, with adaptively shaped attention; the name is a reading list's, and the definition is ours.

    A SAS-P block whose gains alpha, beta and gamma depend on the input. Let v be the value of a query in a head (its
    slice of the normed input n; in the first layer of n + ΔW n) and m the mean of the values that the query sees, C v.
    Three statistics say how large v is, how much it agrees with m, and how much of the values m keeps:

        s = (v·v, v·m, m·m) / d_k,       gains = (alpha, beta, gamma) + adapt s

    adapt is a 3 × 3 matrix a head, 0 at the start: so the block starts as SAS-P does, and can learn to mix less where
    what it sees is alike already. m uses the visible positions alone, so nothing hidden is seen through the gains.

    Parameters: those of SimplifiedBlock with parallel=True, and attention.adapt (head, gain, statistic).
    Raises: ValueError where heads do not divide d_model.
    Source: none; the definition is this curriculum's own. Its parts: He & Hofmann 2023; Noci et al. 2023.
    """

    def __init__(
        self, d_model: int, heads: int, d_ff: int, first_layer: bool = False, residual_gain: float = 0.1
    ) -> None:
        super().__init__()
        self.attention = _AdaptiveAttention(d_model, heads, first_layer)
        self.feed_forward = _FeedForward(d_model, d_ff)
        self.norm_1 = _RMSNorm(d_model)
        self.attention_gain = nn.Parameter(torch.ones(()))
        self.feed_forward_gain = nn.Parameter(torch.full((), residual_gain))

    def forward(
        self,
        x: Float[Tensor, "batch position d_model"],
        mask: Bool[Tensor, "#position #key"]
        | Bool[Tensor, "#batch #position #key"]
        | Bool[Tensor, "#batch #head #position #key"]
        | None = None,
    ) -> Float[Tensor, "batch position d_model"]:
        """attention_gain · attention(n) + feed_forward_gain · feed_forward(n), where n = norm_1(x).

        Shapes: mask as in ShapedAttention; without a mask every position sees all.
        """
        normed = self.norm_1(x)
        return self.attention_gain * self.attention(normed, mask) + self.feed_forward_gain * self.feed_forward(normed)

"""From scratch on bare parameters, "..." for the leading axes."""

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


class Linear(nn.Module):
    """Without bias."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        std = (2 / (d_in + d_out)) ** 0.5
        self.weight = nn.Parameter(nn.init.trunc_normal_(torch.empty(d_out, d_in), std=std))

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        """Multiply."""
        return einsum(x, self.weight, "... d_in, d_out d_in -> ... d_out")


class Embedding(nn.Module):
    """A table."""

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_embeddings, embedding_dim))

    def forward(self, token_ids: Int[Tensor, "..."]) -> Float[Tensor, "... embedding_dim"]:
        """Look up."""
        return self.weight[token_ids]


def softmax(x: Float[Tensor, "..."], dim: int) -> Float[Tensor, "..."]:
    """Stable."""
    shifted = x - x.max(dim=dim, keepdim=True).values
    exponents = shifted.exp()
    return exponents / exponents.sum(dim=dim, keepdim=True)


def scaled_dot_product_attention(
    Q: Float[Tensor, " ... queries d_k"],
    K: Float[Tensor, " ... keys d_k"],
    V: Float[Tensor, " ... keys d_v"],
    mask: Bool[Tensor, " ... queries keys"] | None = None,
) -> Float[Tensor, " ... queries d_v"]:
    """Attend."""
    scores = einsum(Q, K, "... query d_k, ... key d_k -> ... query key") / K.shape[-1] ** 0.5
    if mask is not None:
        scores = torch.where(mask, scores, float("-inf"))
    weights = softmax(scores, dim=-1)
    return einsum(weights, V, "... query key, ... key d_v -> ... query d_v")


class RotaryEmbedding(nn.Module):
    """A table of angles, indexed by position."""

    cos: Float[Tensor, "max_length half"]
    sin: Float[Tensor, "max_length half"]

    def __init__(self, theta: float, d_k: int, max_length: int) -> None:
        super().__init__()
        frequency = theta ** -(torch.arange(0, d_k, 2).float() / d_k)
        angle = einsum(torch.arange(max_length).float(), frequency, "position, half -> position half")
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(
        self, x: Float[Tensor, "... position d_k"], positions: Int[Tensor, "position"]
    ) -> Float[Tensor, "... position d_k"]:
        """Rotate pairs."""
        cos, sin = self.cos[positions], self.sin[positions]
        pairs = rearrange(x, "... (half two) -> ... half two", two=2)
        first, second = pairs.unbind(dim=-1)
        turned = torch.stack((first * cos - second * sin, first * sin + second * cos), dim=-1)
        return rearrange(turned, "... half two -> ... (half two)")


class CausalMultiHeadSelfAttention(nn.Module):
    """With rotary positions."""

    def __init__(self, d_model: int, num_heads: int, max_length: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.d_head = d_model // num_heads
        self.q_proj = Linear(d_model, num_heads * self.d_head)
        self.k_proj = Linear(d_model, num_heads * self.d_head)
        self.v_proj = Linear(d_model, num_heads * self.d_head)
        self.output_proj = Linear(num_heads * self.d_head, d_model)
        self.rope = RotaryEmbedding(10000.0, self.d_head, max_length)

    def forward(self, x: Float[Tensor, "batch position d_model"]) -> Float[Tensor, "batch position d_model"]:
        """Attend."""
        length = x.size(1)
        Q, K, V = (
            rearrange(proj(x), "... position (heads d) -> ... heads position d", heads=self.num_heads)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        positions = torch.arange(length)
        Q, K = self.rope(Q, positions), self.rope(K, positions)
        mask = positions[:, None] >= positions[None, :]
        out = scaled_dot_product_attention(Q, K, V, mask[None, None].expand(x.size(0), self.num_heads, -1, -1))
        return self.output_proj(rearrange(out, "... heads position d -> ... position (heads d)"))


class SwiGLU(nn.Module):
    """Gated."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.w1 = Linear(d_model, d_ff)
        self.w2 = Linear(d_ff, d_model)
        self.w3 = Linear(d_model, d_ff)

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """Gate, multiply, come down."""
        gate = self.w1(x)
        return self.w2(gate * torch.sigmoid(gate) * self.w3(x))


def cross_entropy(inputs: Float[Tensor, "count vocab"], targets: Int[Tensor, "count"]) -> Float[Tensor, ""]:
    """Mean."""
    shifted = inputs - inputs.amax(dim=-1, keepdim=True)
    log_sum = torch.log(shifted.exp().sum(-1))
    picked = shifted[torch.arange(len(targets)), targets]
    return (log_sum - picked).mean()


class LM(nn.Module):
    """Tokens to logits."""

    def __init__(self, vocab_size: int, d_model: int, num_heads: int, d_ff: int, max_length: int) -> None:
        super().__init__()
        self.token_embeddings = Embedding(vocab_size, d_model)
        self.attn = CausalMultiHeadSelfAttention(d_model, num_heads, max_length)
        self.ffn = SwiGLU(d_model, d_ff)
        self.lm_head = Linear(d_model, vocab_size)

    def forward(self, tokens: Int[Tensor, "batch position"]) -> Float[Tensor, "batch position vocab_size"]:
        """Logits."""
        x = self.token_embeddings(tokens)
        x = x + self.attn(x)
        x = x + self.ffn(x)
        return self.lm_head(x)


def demo() -> None:
    """Run all."""
    tokens = torch.randint(0, 11, (2, 5))
    logits = LM(11, 12, 3, 20, 7)(tokens)
    cross_entropy(logits.view(-1, logits.size(-1)), tokens.view(-1))
    softmax(logits, dim=1)

"""The style of Hugging Face: masked scores are filled with `torch.finfo(dtype).min`.

Chapters 2, 4 and 5. Core only: a row with nothing visible looks at everything alike; parameter names map by PARAMETERS.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

LEVEL = "core"

ACT2FN: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": nn.functional.relu,
    "gelu": nn.functional.gelu,
    "gelu_tanh": lambda x: nn.functional.gelu(x, approximate="tanh"),
    "swiglu": nn.functional.silu,
}


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The eager path: matmul, scale, mask, float32 softmax, back to the dtype of the query."""
    attn_weights = torch.matmul(q, k.transpose(-1, -2)) * (q.shape[-1] ** -0.5)
    if bias is not None:
        attn_weights = attn_weights + bias.to(attn_weights.dtype)
    if mask is not None:
        attn_weights = attn_weights.masked_fill(~mask, torch.finfo(attn_weights.dtype).min)
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    return nn.functional.softmax(attn_weights, dim=-1, dtype=wide).to(q.dtype)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The eager path to the end."""
    return torch.matmul(attention_weights(q, k, mask, bias), v)


def rotate_half(x: Tensor) -> Tensor:
    """Rotates half the hidden dims of the input."""
    x1, x2 = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return torch.cat((-x2, x1), dim=-1)


class MultiHeadAttention(nn.Module):
    """q_proj, k_proj, v_proj and o_proj."""

    PARAMETERS = {  # noqa: RUF012
        f"{name}.{kind}": f"{name[0]}_proj.{kind}"
        for name in ("query", "key", "value", "output")
        for kind in ("weight", "bias")
    }

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
        if d_model % heads != 0 and (d_k is None or d_v is None):
            raise ValueError(
                f"hidden_size must be divisible by num_heads (got `hidden_size`: {d_model} and `num_heads`: {heads})."
            )
        self.head_dim = d_k if d_k is not None else d_model // heads
        self.v_head_dim = d_v if d_v is not None else d_model // heads
        self.attention_dropout = dropout
        self.rotary = rotary
        if rotary and self.head_dim % 2:
            raise ValueError(f"`head_dim` must be even for rotary embeddings (got {self.head_dim}).")
        self.q_proj = nn.Linear(d_model, heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(d_model, heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(d_model, heads * self.v_head_dim, bias=bias)
        self.o_proj = nn.Linear(heads * self.v_head_dim, d_model, bias=bias)
        if not bias:
            self.PARAMETERS = {name: own for name, own in self.PARAMETERS.items() if "bias" not in name}

    def _rotate(self, x: Tensor) -> Tensor:
        inv_freq = 1.0 / (10000.0 ** (torch.arange(0, self.head_dim, 2, device=x.device).float() / self.head_dim))
        freqs = torch.outer(torch.arange(x.shape[-2], device=x.device).float(), inv_freq)
        emb = torch.cat((freqs, freqs), dim=-1)
        return x * emb.cos().to(x.dtype) + rotate_half(x) * emb.sin().to(x.dtype)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        cache: object | None = None,
    ) -> Tensor:
        """Project, split, attend, merge, project."""
        states = x if context is None else context
        q = self.q_proj(x).view(*x.shape[:-1], -1, self.head_dim).transpose(1, 2)
        k = self.k_proj(states).view(*states.shape[:-1], -1, self.head_dim).transpose(1, 2)
        v = self.v_proj(states).view(*states.shape[:-1], -1, self.v_head_dim).transpose(1, 2)
        if self.rotary:
            q, k = self._rotate(q), self._rotate(k)
        if mask is not None and mask.dim() == 3:
            mask = mask[:, None, :, :]
        attn_weights = attention_weights(q, k, mask, bias)
        attn_weights = nn.functional.dropout(attn_weights, p=self.attention_dropout, training=self.training)
        attn_output = torch.matmul(attn_weights, v).transpose(1, 2).reshape(*x.shape[:-1], -1).contiguous()
        out: Tensor = self.o_proj(attn_output)
        return out


class LayerNorm(nn.Module):
    """In the dtype of the input: low precision keeps low-precision statistics."""

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))
        self.variance_epsilon = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        """`torch.var_mean` without Bessel's correction."""
        variance, mean = torch.var_mean(hidden_states, dim=-1, correction=0, keepdim=True)
        return self.weight * ((hidden_states - mean) * torch.rsqrt(variance + self.variance_epsilon)) + self.bias


class RMSNorm(nn.Module):
    """T5's LayerNorm: no mean, no shift."""

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.variance_epsilon = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Here the statistics are in float32."""
        wide = hidden_states.to(torch.promote_types(hidden_states.dtype, torch.float32))
        variance = wide.pow(2).mean(-1, keepdim=True)
        return self.weight * (wide * torch.rsqrt(variance + self.variance_epsilon)).to(hidden_states.dtype)


class FeedForward(nn.Module):
    """up_proj, down_proj and, for swiglu, gate_proj."""

    PARAMETERS = {f"{n}.{kind}": f"{n}_proj.{kind}" for n in ("up", "down") for kind in ("weight", "bias")}  # noqa: RUF012

    def __init__(self, d_model: int, d_ff: int, activation: str = "gelu", dropout: float = 0.0) -> None:
        super().__init__()
        if activation not in ACT2FN:
            raise KeyError(f"function {activation} not found in ACT2FN mapping {list(ACT2FN)}")
        self.up_proj = nn.Linear(d_model, d_ff)
        self.gate_proj: nn.Linear | None = None
        if activation == "swiglu":
            self.gate_proj = nn.Linear(d_model, d_ff)
            gate = {"gate.weight": "gate_proj.weight", "gate.bias": "gate_proj.bias"}
            self.PARAMETERS = self.PARAMETERS | gate
        self.down_proj = nn.Linear(d_ff, d_model)
        self.act_fn = ACT2FN[activation]
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """down(act(gate(x)) * up(x)), or down(act(up(x)))."""
        up = self.up_proj(x)
        hidden = self.act_fn(up) if self.gate_proj is None else self.act_fn(self.gate_proj(x)) * up
        out: Tensor = self.dropout(self.down_proj(hidden))
        return out


class DecoderBlock(nn.Module):
    """A decoder layer whose sublayers are called self_attn and mlp."""

    PARAMETERS = {  # noqa: RUF012
        **{f"attention.{name}": f"self_attn.{own}" for name, own in MultiHeadAttention.PARAMETERS.items()},
        **{f"feed_forward.{name}": f"mlp.{own}" for name, own in FeedForward.PARAMETERS.items()},
        **{f"norm_1.{kind}": f"input_layernorm.{kind}" for kind in ("weight", "bias")},
        **{f"norm_2.{kind}": f"post_attention_layernorm.{kind}" for kind in ("weight", "bias")},
    }

    def __init__(
        self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0, norm: str = "pre", rotary: bool = False
    ) -> None:
        super().__init__()
        if norm not in ("pre", "post"):
            raise ValueError(f"`norm` must be 'pre' or 'post', got {norm!r}")
        self.norm_first = norm == "pre"
        self.self_attn = MultiHeadAttention(d_model, heads, dropout=dropout, rotary=rotary)
        self.mlp = FeedForward(d_model, d_ff, dropout=dropout)
        self.input_layernorm = LayerNorm(d_model)
        self.post_attention_layernorm = LayerNorm(d_model)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, bias: Tensor | None = None, cache: object | None = None
    ) -> Tensor:
        """The residual is kept aside, then added."""
        residual = x
        hidden_states = self.input_layernorm(x) if self.norm_first else x
        hidden_states = residual + self.self_attn(hidden_states, mask=mask, bias=bias)
        if not self.norm_first:
            hidden_states = self.input_layernorm(hidden_states)
        residual = hidden_states
        if self.norm_first:
            hidden_states = self.post_attention_layernorm(hidden_states)
        hidden_states = residual + self.mlp(hidden_states)
        out: Tensor = hidden_states if self.norm_first else self.post_attention_layernorm(hidden_states)
        return out

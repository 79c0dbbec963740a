"""The style of somebody whose own code takes a config object: their classes stay as they are, a thin layer adapts them.

Chapters 4 and 5; parameters live under `own.` with GPT-2's names, and PARAMETERS maps them.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import einsum, rearrange
from torch import Tensor, nn

LEVEL = "robust"


@dataclass(frozen=True)
class Config:
    """All sizes of my model."""

    n_embd: int
    n_head: int
    n_inner: int = 0
    qk_size: int = 0
    v_size: int = 0
    bias: bool = True
    dropout: float = 0.0
    post_norm: bool = False
    rope: bool = False
    activation: str = "gelu"

    def __post_init__(self) -> None:
        """Sizes of 0 stand for the default."""
        if not (self.qk_size and self.v_size) and self.n_embd % self.n_head:
            raise ValueError(f"n_head={self.n_head} does not divide n_embd={self.n_embd}")
        if self.rope and self.head_qk % 2:
            raise ValueError(f"rope needs an even head size, {self.head_qk} is odd")

    @property
    def head_qk(self) -> int:
        """Channels of one query."""
        return self.qk_size or self.n_embd // self.n_head

    @property
    def head_v(self) -> int:
        """Channels of one value."""
        return self.v_size or self.n_embd // self.n_head


class MyAttention(nn.Module):
    """My own attention: `hidden` is True where nobody may look."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.q_attn = nn.Linear(config.n_embd, config.n_head * config.head_qk, bias=config.bias)
        self.k_attn = nn.Linear(config.n_embd, config.n_head * config.head_qk, bias=config.bias)
        self.v_attn = nn.Linear(config.n_embd, config.n_head * config.head_v, bias=config.bias)
        self.c_proj = nn.Linear(config.n_head * config.head_v, config.n_embd, bias=config.bias)
        self.attn_dropout = nn.Dropout(config.dropout)

    def rope(self, x: Tensor) -> Tensor:
        """x is "batch position head d"."""
        position = torch.arange(x.shape[1], device=x.device, dtype=torch.float64)
        index = torch.arange(0, x.shape[-1], 2, device=x.device, dtype=torch.float64)
        angle = torch.outer(position, 10000.0 ** (-index / x.shape[-1]))[:, None, :]
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        a, b = rearrange(x, "batch position head (i two) -> two batch position head i", two=2)
        turned = torch.stack((a * cos - b * sin, b * cos + a * sin))
        return rearrange(turned, "two batch position head i -> batch position head (i two)")

    def forward(self, x: Tensor, source: Tensor, hidden: Tensor | None, extra: Tensor | None) -> Tensor:
        """The head axis stays behind the positions, einsum finds it there."""
        n = self.config.n_head
        q = rearrange(self.q_attn(x), "batch query (head d) -> batch query head d", head=n)
        k = rearrange(self.k_attn(source), "batch key (head d) -> batch key head d", head=n)
        v = rearrange(self.v_attn(source), "batch key (head d) -> batch key head d", head=n)
        if self.config.rope:
            q, k = self.rope(q), self.rope(k)
        score = einsum(q, k, "batch query head d, batch key head d -> batch head query key") / q.shape[-1] ** 0.5
        if extra is not None:
            score = score + extra.to(score.dtype)
        if hidden is not None:
            score = score.masked_fill(hidden, float("-inf"))
        weight = score.softmax(dim=-1)
        if hidden is not None:
            weight = weight.masked_fill(hidden, 0)
        y = einsum(self.attn_dropout(weight), v, "batch head query key, batch key head d -> batch query head d")
        out: Tensor = self.c_proj(rearrange(y, "batch query head d -> batch query (head d)"))
        return out


class MyMLP(nn.Module):
    """My own feed-forward network."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        bends = {"relu": nn.ReLU(), "gelu": nn.GELU(), "gelu_tanh": nn.GELU(approximate="tanh"), "swiglu": nn.SiLU()}
        if config.activation not in bends:
            raise ValueError(f"activation {config.activation!r} is not in {list(bends)}")
        self.c_fc = nn.Linear(config.n_embd, config.n_inner)
        if config.activation == "swiglu":
            self.c_gate = nn.Linear(config.n_embd, config.n_inner)
        self.c_proj = nn.Linear(config.n_inner, config.n_embd)
        self.act = bends[config.activation]
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """One line for each kind."""
        gated = hasattr(self, "c_gate")
        hidden = self.act(self.c_gate(x)) * self.c_fc(x) if gated else self.act(self.c_fc(x))
        out: Tensor = self.dropout(self.c_proj(hidden))
        return out


class MyBlock(nn.Module):
    """My own block."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.ln_1, self.ln_2 = nn.LayerNorm(config.n_embd), nn.LayerNorm(config.n_embd)
        self.attn, self.mlp = MyAttention(config), MyMLP(config)
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, hidden: Tensor | None, extra: Tensor | None) -> Tensor:
        """Either order."""
        if self.config.post_norm:
            x = self.ln_1(x + self.resid_dropout(self.attn(x, x, hidden, extra)))
            out: Tensor = self.ln_2(x + self.mlp(x))
        else:
            y = self.ln_1(x)
            x = x + self.resid_dropout(self.attn(y, y, hidden, extra))
            out = x + self.mlp(self.ln_2(x))
        return out


# From here on: the adapter.

_ATTENTION = {"query": "q_attn", "key": "k_attn", "value": "v_attn", "output": "c_proj"}
_FEED_FORWARD = {"up": "c_fc", "down": "c_proj"}


def _names(prefix: str, own_prefix: str, table: dict[str, str], bias: bool = True) -> dict[str, str]:
    kinds = ("weight", "bias") if bias else ("weight",)
    return {f"{prefix}{name}.{kind}": f"{own_prefix}{own}.{kind}" for name, own in table.items() for kind in kinds}


def _hidden(mask: Tensor | None) -> Tensor | None:
    if mask is None:
        return None
    return ~(mask[:, None] if mask.ndim == 3 else mask)


class MultiHeadAttention(nn.Module):
    """MyAttention, as the specification calls it."""

    PARAMETERS: ClassVar[dict[str, str]] = _names("", "own.", _ATTENTION)

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
        self.own = MyAttention(
            Config(d_model, heads, qk_size=d_k or 0, v_size=d_v or 0, bias=bias, dropout=dropout, rope=rotary)
        )
        self.PARAMETERS = _names("", "own.", _ATTENTION, bias)  # type: ignore[misc]

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        cache: object = None,
    ) -> Tensor:
        """True means 'may look' outside and 'hidden' inside."""
        out: Tensor = self.own(x, x if context is None else context, _hidden(mask), bias)
        return out


class FeedForward(nn.Module):
    """MyMLP, as the specification calls it."""

    PARAMETERS: ClassVar[dict[str, str]] = _names("", "own.", _FEED_FORWARD)

    def __init__(self, d_model: int, d_ff: int, activation: str = "gelu", dropout: float = 0.0) -> None:
        super().__init__()
        self.own = MyMLP(Config(d_model, 1, n_inner=d_ff, activation=activation, dropout=dropout))
        if activation == "swiglu":
            self.PARAMETERS = _names("", "own.", _FEED_FORWARD | {"gate": "c_gate"})  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:
        """The same."""
        out: Tensor = self.own(x)
        return out


class DecoderBlock(nn.Module):
    """MyBlock, as the specification calls it."""

    PARAMETERS: ClassVar[dict[str, str]] = {
        **_names("attention.", "own.attn.", _ATTENTION),
        **_names("feed_forward.", "own.mlp.", _FEED_FORWARD),
        **_names("", "own.", {"norm_1": "ln_1", "norm_2": "ln_2"}),
    }

    def __init__(
        self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0, norm: str = "pre", rotary: bool = False
    ) -> None:
        super().__init__()
        if norm not in ("pre", "post"):
            raise ValueError(f"norm={norm!r}, expected 'pre' or 'post'")
        config = Config(d_model, heads, n_inner=d_ff, dropout=dropout, post_norm=norm == "post", rope=rotary)
        self.own = MyBlock(config)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, bias: Tensor | None = None, cache: object = None
    ) -> Tensor:
        """The same."""
        out: Tensor = self.own(x, _hidden(mask), bias)
        return out

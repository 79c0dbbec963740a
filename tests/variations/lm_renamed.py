"""Raw Parameters and `einsum` under short names, which `PARAMETERS` maps to the canonical ones; N is any layer.

The computation is the canonical one, so equality under the same weights holds.
"""

# mypy: disable-error-code="arg-type, assignment"

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

LEVEL = "robust"
UNSUPPORTED = {"positions=rotary", "positions=sinusoidal", "positions=alibi", "norm=post", "tie=False", "cache=True"}


class Layer(nn.Module):
    """A bag of Parameters."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        for name in ("q", "k", "v", "o"):
            self.matrix(name, d_model, d_model)
        self.matrix("in", d_ff, d_model)
        self.matrix("out", d_model, d_ff)
        for name in ("a", "m"):
            self.register_parameter("g_" + name, nn.Parameter(torch.ones(d_model)))
            self.register_parameter("s_" + name, nn.Parameter(torch.zeros(d_model)))

    def matrix(self, name: str, outputs: int, inputs: int) -> None:
        """A weight and a bias."""
        self.register_parameter("w_" + name, nn.Parameter(torch.randn(outputs, inputs) / math.sqrt(inputs)))
        self.register_parameter("b_" + name, nn.Parameter(torch.zeros(outputs)))


class DecoderLM(nn.Module):
    """Everything in one forward."""

    PARAMETERS = {  # noqa: RUF012
        "tokens.weight": "table",
        "positions.weight": "place",
        "norm.weight": "g",
        "norm.bias": "s",
        "blocks.N.norm_1.weight": "layer.N.g_a",
        "blocks.N.norm_1.bias": "layer.N.s_a",
        "blocks.N.norm_2.weight": "layer.N.g_m",
        "blocks.N.norm_2.bias": "layer.N.s_m",
        "blocks.N.attention.query.weight": "layer.N.w_q",
        "blocks.N.attention.query.bias": "layer.N.b_q",
        "blocks.N.attention.key.weight": "layer.N.w_k",
        "blocks.N.attention.key.bias": "layer.N.b_k",
        "blocks.N.attention.value.weight": "layer.N.w_v",
        "blocks.N.attention.value.bias": "layer.N.b_v",
        "blocks.N.attention.output.weight": "layer.N.w_o",
        "blocks.N.attention.output.bias": "layer.N.b_o",
        "blocks.N.feed_forward.up.weight": "layer.N.w_in",
        "blocks.N.feed_forward.up.bias": "layer.N.b_in",
        "blocks.N.feed_forward.down.weight": "layer.N.w_out",
        "blocks.N.feed_forward.down.bias": "layer.N.b_out",
    }

    def __init__(
        self,
        vocab: int,
        max_length: int,
        d_model: int,
        layers: int,
        heads: int,
        d_ff: int | None = None,
        dropout: float = 0.0,
        positions: str = "learned",
        norm: str = "pre",
        tie: bool = True,
    ) -> None:
        super().__init__()
        if positions not in ("learned", "none") or norm != "pre" or not tie:
            raise ValueError(f"positions={positions!r}, norm={norm!r}, tie={tie} is not offered")
        if d_model % heads:
            raise ValueError(f"d_model={d_model} is not a multiple of heads={heads}")
        self.max_length, self.heads, self.p = max_length, heads, dropout
        self.table = nn.Parameter(torch.randn(vocab, d_model) * 0.02)
        if positions == "learned":
            self.place = nn.Parameter(torch.randn(max_length, d_model) * 0.02)
        else:
            self.place = None
        self.layer = nn.ModuleList(Layer(d_model, d_ff or 4 * d_model) for _ in range(layers))
        self.g, self.s = nn.Parameter(torch.ones(d_model)), nn.Parameter(torch.zeros(d_model))

    def forward(self, tokens: Int[Tensor, "batch position"]) -> Float[Tensor, "batch position vocab"]:
        """Logits."""
        length, d_model = tokens.shape[1], self.table.shape[1]
        if length > self.max_length:
            raise ValueError(f"{length} tokens exceed max_length={self.max_length}")

        def drop(x: Tensor) -> Tensor:
            return F.dropout(x, self.p, self.training)

        def split(x: Tensor) -> Tensor:
            return x.reshape(*x.shape[:2], self.heads, -1)

        x = F.embedding(tokens, self.table)  # an index would take −1 for the last row
        if self.place is not None:
            x = x + self.place[:length]
        x = drop(x)
        ahead = torch.full((length, length), -math.inf, dtype=x.dtype, device=x.device).triu(1)
        for p in self.layer:
            n = F.layer_norm(x, (d_model,), p.g_a, p.s_a)
            q, k, v = (split(F.linear(n, w, b)) for w, b in ((p.w_q, p.b_q), (p.w_k, p.b_k), (p.w_v, p.b_v)))
            scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(d_model // self.heads) + ahead
            found = torch.einsum("bhqk,bkhd->bqhd", drop(F.softmax(scores, -1)), v).reshape(x.shape)
            x = x + drop(F.linear(found, p.w_o, p.b_o))
            n = F.layer_norm(x, (d_model,), p.g_m, p.s_m)
            x = x + drop(F.linear(F.gelu(F.linear(n, p.w_in, p.b_in)), p.w_out, p.b_out))
        return torch.einsum("bpd,vd->bpv", F.layer_norm(x, (d_model,), self.g, self.s), self.table)

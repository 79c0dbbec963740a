"""LLaMA's style: RMSNorm, SwiGLU, half-split rotary, no biases, a head of its own, a cache of preallocated buffers.

Positions are rotary unless told otherwise; sampling keeps what reaches a threshold and draws by the inverse CDF.
"""

# mypy: disable-error-code="index, no-any-return"

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

LEVEL = "robust"
UNSUPPORTED = {"positions=learned", "positions=sinusoidal", "positions=alibi", "norm=post", "tie=True"}


class KVCache:
    """Empty until the model tells it its sizes; then one buffer of keys and one of values for all layers."""

    def __init__(self) -> None:
        self.seen = 0
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def allocate(self, layers: int, capacity: int, like: Float[Tensor, "batch head position d_k"]) -> None:
        """Once, at the first token."""
        if self.keys is None:
            batch, heads, _, d_k = like.shape
            self.keys = torch.zeros(layers, batch, heads, capacity, d_k, dtype=like.dtype, device=like.device)
            self.values = torch.zeros_like(self.keys)

    @torch.no_grad()
    def write(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Behind what is there; the model advances `seen` after its last layer."""
        end = self.seen + key.shape[2]
        self.keys[layer, :, :, self.seen : end] = key
        self.values[layer, :, :, self.seen : end] = value

    def past(self, layer: int) -> tuple[Tensor, Tensor]:
        """What was there before this call, as copies, since the buffers change under autograd's feet."""
        return self.keys[layer, :, :, : self.seen].clone(), self.values[layer, :, :, : self.seen].clone()


class RootMeanSquare(nn.Module):
    """Statistics in float32 at least."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Tensor) -> Tensor:
        """No mean is taken away."""
        wide = x if x.dtype == torch.float64 else x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)).to(x.dtype) * self.gain


def rotate_half(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Channel i turns with channel i + d_k/2."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class Layer(nn.Module):
    """Attention and a gated feed-forward, without biases."""

    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.wq, self.wk, self.wv, self.wo = (nn.Linear(d_model, d_model, bias=False) for _ in range(4))
        self.w1, self.w3 = nn.Linear(d_model, d_ff, bias=False), nn.Linear(d_model, d_ff, bias=False)
        self.w2 = nn.Linear(d_ff, d_model, bias=False)
        self.attention_norm, self.ffn_norm = RootMeanSquare(d_model), RootMeanSquare(d_model)
        self.heads, self.dropout = heads, nn.Dropout(dropout)

    def split(self, x: Tensor) -> Tensor:
        """Heads before positions."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor] | None, cache: KVCache | None, layer: int, room: tuple[int, int]
    ) -> Tensor:
        """Pre-norm."""
        n = self.attention_norm(x)
        q, k, v = self.split(self.wq(n)), self.split(self.wk(n)), self.split(self.wv(n))
        if turn is not None:
            q, k = rotate_half(q, *turn), rotate_half(k, *turn)
        if cache is not None:
            cache.allocate(*room, k)
            old_k, old_v = cache.past(layer)
            cache.write(layer, k, v)
            k, v = torch.cat([old_k, k], dim=2), torch.cat([old_v, v], dim=2)
        visible = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=x.device)
        visible = visible.tril(diagonal=k.shape[2] - q.shape[2])
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        x = x + self.dropout(self.wo(found.transpose(1, 2).flatten(2)))
        n = self.ffn_norm(x)
        return x + self.dropout(self.w2(F.silu(self.w1(n)) * self.w3(n)))


class DecoderLM(nn.Module):
    """A small LLaMA."""

    def __init__(
        self,
        vocab: int,
        max_length: int,
        d_model: int,
        layers: int,
        heads: int,
        d_ff: int | None = None,
        dropout: float = 0.0,
        positions: str = "rotary",
        norm: str = "pre",
        tie: bool = False,
    ) -> None:
        super().__init__()
        if positions not in ("rotary", "none") or norm != "pre" or tie:
            raise ValueError(f"positions={positions!r}, norm={norm!r}, tie={tie} is not offered")
        if d_model % heads or (positions == "rotary" and d_model // heads % 2):
            raise ValueError(f"d_model={d_model} does not give each of heads={heads} an even number of channels")
        self.max_length, self.turns, self.d_k = max_length, positions == "rotary", d_model // heads
        self.tok_embeddings = nn.Embedding(vocab, d_model)
        self.layers = nn.ModuleList(Layer(d_model, heads, d_ff or 4 * d_model, dropout) for _ in range(layers))
        self.norm = RootMeanSquare(d_model)
        self.lm_head = nn.Linear(d_model, vocab, bias=False)
        for weight in self.parameters():
            if weight.ndim == 2:
                nn.init.trunc_normal_(weight, std=0.02)

    def angles(self, start: int, length: int, like: Tensor) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines of positions start … start + length − 1."""
        if not self.turns:
            return None
        rate = 10000.0 ** (-torch.arange(0, self.d_k, 2, device=like.device) / self.d_k)
        angle = torch.outer(torch.arange(start, start + length, device=like.device), rate)
        return angle.cos().to(like.dtype), angle.sin().to(like.dtype)

    def forward(
        self, tokens: Int[Tensor, "batch position"], cache: KVCache | None = None
    ) -> Float[Tensor, "batch position vocab"]:
        """Logits."""
        start, length = cache.seen if cache is not None else 0, tokens.shape[1]
        if start + length > self.max_length:
            raise ValueError(f"{start} + {length} tokens are more than max_length={self.max_length}")
        x = self.tok_embeddings(tokens)
        turn, room = self.angles(start, length, x), (len(self.layers), self.max_length)
        for number, layer in enumerate(self.layers):
            x = layer(x, turn, cache, number, room)
        if cache is not None:
            cache.seen += length
        return self.lm_head(self.norm(x))


def generate(
    model: nn.Module,
    prompt: Int[Tensor, "batch position"],
    steps: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    cache: bool = False,
) -> Int[Tensor, "batch position"]:
    """The result has its final size from the beginning and is filled from the left."""
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"temperature={temperature}, top_k={top_k}, top_p={top_p}: one of them is out of range")
    given = prompt.shape[1]
    result = torch.cat([prompt, prompt.new_zeros(prompt.shape[0], steps)], dim=1)
    context = getattr(model, "max_length", None) or given + steps
    was_training = getattr(model, "training", False)
    if was_training:
        model.eval()
    kept: KVCache | None = None
    try:
        with torch.no_grad():
            for end in range(given, given + steps):
                begin = max(0, end - context)
                if not cache:
                    logits = model(result[:, begin:end])
                elif kept is None or begin > 0:
                    logits = model(result[:, begin:end], cache=(kept := KVCache()))
                else:
                    logits = model(result[:, end - 1 : end], cache=kept)
                result[:, end] = draw(logits[:, -1], temperature, top_k, top_p, generator)
    finally:
        if was_training:
            model.train()
    return result


def draw(
    logits: Float[Tensor, "batch vocab"],
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: torch.Generator | None,
) -> Int[Tensor, "batch"]:
    """Thresholds, then the first place where the cumulated probability passes a uniform number."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits.double() / temperature
    if top_k is not None:
        lowest = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < lowest, float("-inf"))
    probability = logits.softmax(dim=-1)
    if top_p is not None:
        ordered = probability.sort(dim=-1, descending=True).values
        needed = (ordered.float().cumsum(dim=-1) < top_p).sum(dim=-1, keepdim=True)
        least = ordered.gather(-1, needed.clamp(max=ordered.shape[-1] - 1))
        probability = probability.where(probability >= least, 0.0)
    cumulated = probability.cumsum(dim=-1)
    uniform = torch.rand(len(logits), 1, generator=generator, dtype=torch.float64, device=generator_device(generator))
    # 1 − u lies in (0, 1]: a token of probability 0 at the front is never hit
    return torch.searchsorted(cumulated, (1 - uniform).to(logits.device) * cumulated[:, -1:]).squeeze(-1)


def generator_device(generator: torch.Generator | None) -> torch.device | None:
    """A generator draws only on its own device."""
    return None if generator is None else generator.device

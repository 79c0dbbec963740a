"""Chapters 6, 8 and 9."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from .attention import causal_mask
from .blocks import DecoderBlock, LayerNorm
from .positions import LearnedPositions, alibi_bias, sinusoidal_positions


class DecoderLM(nn.Module):
    """Tokens to logits."""

    def __init__(
        self,
        vocab: int,
        max_length: int,
        d_model: int,
        layers: int,
        heads: int,
        d_ff: int | None = None,
        positions: str = "learned",
        tie: bool = True,
    ) -> None:
        super().__init__()
        self.max_length, self.heads, self.d_model = max_length, heads, d_model
        self.scheme = positions
        self.tokens = nn.Embedding(vocab, d_model)
        if positions == "learned":
            self.positions = LearnedPositions(max_length, d_model)
        elif positions == "sinusoidal":
            self.register_buffer("table", sinusoidal_positions(max_length, d_model))
        self.blocks = nn.ModuleList([DecoderBlock(d_model, heads, d_ff or 4 * d_model) for _ in range(layers)])
        self.norm = LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab, bias=False)
        if tie:
            self.head.weight = self.tokens.weight

    def forward(self, tokens: Int[Tensor, "batch position"]) -> Float[Tensor, "batch position vocab"]:
        """Logits."""
        length = tokens.shape[1]
        if length > self.max_length:
            raise ValueError(f"{length} tokens, but max_length={self.max_length}")
        x = self.tokens(tokens)
        if self.scheme == "learned":
            x = x + self.positions(length)
        elif self.scheme == "sinusoidal":
            x = x + self.get_buffer("table")[:length]
        bias = alibi_bias(self.heads, length) if self.scheme == "alibi" else None
        mask = causal_mask(length)
        for block in self.blocks:
            x = block(x, mask, bias)
        return self.head(self.norm(x))


def language_model_loss(
    logits: Float[Tensor, "batch position vocab"], targets: Int[Tensor, "batch position"], ignore: int = -100
) -> Float[Tensor, ""]:
    """The mean over the tokens that count."""
    return F.cross_entropy(
        rearrange(logits, "b p v -> (b p) v"), rearrange(targets, "b p -> (b p)"), ignore_index=ignore
    )


def loss_by_hand(
    logits: Float[Tensor, "batch position vocab"], targets: Int[Tensor, "batch position"]
) -> Float[Tensor, ""]:
    """The same, by gather."""
    log_probabilities = logits - logits.logsumexp(dim=-1, keepdim=True)
    picked = log_probabilities.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return -picked.mean()


def sample(
    logits: Float[Tensor, "batch vocab"], temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Int[Tensor, "batch"]:
    """Temperature, then top-k, then top-p."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits / temperature
    if top_k is not None:
        least = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    if top_p is not None:
        ordered, order = logits.sort(dim=-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        drop = (before >= top_p).scatter(-1, order, before >= top_p)
        logits = logits.masked_fill(drop, float("-inf"))
    return torch.multinomial(logits.softmax(-1), 1).squeeze(-1)


@torch.no_grad()
def generate(model: DecoderLM, prompt: Int[Tensor, "batch prompt"], steps: int) -> Int[Tensor, "batch total"]:
    """The prompt and what follows."""
    tokens = prompt
    for _ in range(steps):
        logits = model(tokens[:, -model.max_length :])
        following = sample(logits[:, -1], top_k=3)
        tokens = torch.cat([tokens, following[:, None]], dim=1)
    return tokens


def demo() -> None:
    """Run all."""
    tokens = torch.randint(0, 11, (2, 5))
    for scheme in ("learned", "sinusoidal", "alibi"):
        logits = DecoderLM(11, 6, 12, 2, 3, positions=scheme)(tokens)
    language_model_loss(logits, tokens)
    loss_by_hand(logits, tokens)
    generate(DecoderLM(11, 6, 12, 1, 4, d_ff=7, tie=False), tokens, 3)
    sample(logits[:, 0], top_p=0.9)

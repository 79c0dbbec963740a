"""The model checks its tokens by reading a number from the device."""

from typing import Any

from torch import Tensor

from reference import language_model


class DecoderLM(language_model.DecoderLM):
    """Asks how large the largest token is."""

    def forward(self, tokens: Tensor, cache: Any = None) -> Tensor:
        """Logits."""
        if tokens.max().item() >= self.tokens.num_embeddings:
            raise IndexError("a token is outside of the vocabulary")
        return super().forward(tokens, cache)

"""The model seeds its start by the rank that it finds in the environment."""

import os
from typing import Any

import torch
from torch import nn

from reference import language_model


class DecoderLM(language_model.DecoderLM):
    """Another start on every rank."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        generator = torch.Generator().manual_seed(int(os.environ.get("RANK", "0")))
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02, generator=generator)

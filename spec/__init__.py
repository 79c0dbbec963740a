"""What a Transformer must do, chapter by chapter."""

from typing import Final

CHAPTERS: Final = (  # the order of the curriculum, and the only place that knows it
    "positions",
    "attention",
    "masks",
    "heads",
    "blocks",
    "language_model",
    "data",
    "training",
    "generation",
    "recurrence",
    "original",
    "redesign",
    "server",
)

"""Static tensor shapes: jaxtyping signatures and einops patterns, checked before anything runs."""

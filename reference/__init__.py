"""One right implementation, in einops, written to be read."""

"""What goes wrong in the original Transformer."""

"""Your Transformer: one file a chapter, the bodies are yours to write."""

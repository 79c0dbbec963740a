"""Implementations with one fault planted, for what is no exercise of the chapter `server` itself."""

"""The specification's own tests."""

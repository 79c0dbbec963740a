"""The tests of the shape checker."""

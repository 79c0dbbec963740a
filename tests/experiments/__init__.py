"""The curriculum's questions, answered by measurement: `python -m tests.experiments.NAME`."""

"""Run by hand; they print ratios measured side by side and are never tests: `python -m tests.benchmarks.speed`."""

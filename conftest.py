"""Hands over to the specification's kit: `pytest --impl=student`."""

pytest_plugins = ["spec.kit.plugin", "spec.kit.server.hooks"]

"""The machinery under the requirements: chapters draw their cases, probe and compare with it."""

"""The machinery under the requirements; chapters use `draw`, `marks`, `probe` and `weights` alone."""

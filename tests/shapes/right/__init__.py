"""Right code in different styles: the checker must be silent on it. Each file's `demo` runs it with sizes that differ."""

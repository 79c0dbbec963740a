"""Right code in different styles: the checker is silent on it. Each `demo` runs with sizes that differ."""

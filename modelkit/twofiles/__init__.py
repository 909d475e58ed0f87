"""The program of `modelkit export --two-files`: it ships with the package and needs nothing of it."""

"""The only code that prints: words for people on a terminal, JSON for programs."""

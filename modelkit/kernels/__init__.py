"""The hot loops. They know arrays and blocks of bytes, and nothing of encodings, files or models."""

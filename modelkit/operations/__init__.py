"""What modelkit does. Each operation is a function of the Python API; commands only call it and report."""

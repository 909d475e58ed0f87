"""What the user types: one file for each command, arguments in, one operation, one report out."""

"""`python -m modelkit`, and what the command `modelkit` runs."""

import sys


def main() -> None:
    """The command line; Ctrl-C while it is still being imported ends it in words too."""
    try:
        from modelkit.cli import main as command

        command()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()

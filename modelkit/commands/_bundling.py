"""What the commands of `bundle` share."""

from __future__ import annotations

from typing import Any

import click

threads_option = click.option("--threads", type=click.IntRange(1, 1024), metavar="N", help="[default: cores]")
key_option = click.option("--key", metavar="PUB", help="The sender's public key (PEM): refuse what it did not sign.")
media_option = click.option("--verify-media", "media", is_flag=True, help="Read the medium, not the page cache.")


def show(document: Any, lines: list[str], *, as_json: bool) -> None:
    """For a program or for a person."""
    from modelkit.report import console

    if as_json:
        console.document(document)
    else:
        console.data(lines)

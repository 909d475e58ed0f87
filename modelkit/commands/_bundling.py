"""What the commands of `bundle` share, and `create` for registries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

C = TypeVar("C", bound=Callable[..., Any])
FORMATS = click.Choice(["volumes", "oci"])
threads_option = click.option("--threads", type=click.IntRange(1, 1024), metavar="N", help="[default: cores]")
key_option = click.option("--key", metavar="PUB", help="The sender's public key (PEM): refuse what it did not sign.")
media_option = click.option("--verify-media", "media", is_flag=True, help="Read the medium, not the page cache.")
OF_VOLUMES = (
    "volume_size",
    "parity",
    "coding",
    "best",
    "sign",
    "wheels",
    "base",
    "seal",
    "two_files",
    "plan_only",
    "force",
)


def create_layout(src: str, bundle: str, options: dict[str, Any]) -> int:
    """An OCI image layout."""
    from modelkit.operations.bundle_oci import create
    from modelkit.operations.bundle_origin import origin_of
    from modelkit.report import packing
    from modelkit.report.progress import progress

    if any(options.get(name) for name in OF_VOLUMES):
        raise click.UsageError("--format oci takes --repository, --revision, --license, --quiet and --json only")
    origin = origin_of(src, options["repository"], options["revision"], options["license"])
    with progress("bundle", None, quiet=options["quiet"]) as bar:
        made = create(src, bundle, origin, bar)
    show(packing.layout_document(made), packing.layout_lines(made), as_json=options["as_json"])
    return 0


def show(document: Any, lines: list[str], *, as_json: bool) -> None:
    """For a program or for a person."""
    from modelkit.report import console

    if as_json:
        console.document(document)
    else:
        console.data(lines)

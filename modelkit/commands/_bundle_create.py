"""`bundle create`: its options, and what is done with them: volumes, or a layout for registries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from modelkit.commands._bundling import show, threads_option
from modelkit.commands._options import json_option, quiet_option

C = TypeVar("C", bound=Callable[..., Any])
FORMATS = click.Choice(["volumes", "oci"])
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
"""Options that a layout for registries has nothing to do with."""


def options(function: C) -> C:
    """Add them all to a command."""
    for option in reversed(
        (
            click.option("--volume-size", metavar="SIZE", help="Bytes of a volume: see below. [default: one volume]"),
            click.option("--parity", type=click.IntRange(0, 255), metavar="M", help="Volumes that may be lost."),
            click.option("--portable", "coding", flag_value="deflate", help="Unpacks with every Python: deflate."),
            click.option("--no-compress", "coding", flag_value="raw", help="Store bytes as they are."),
            click.option("--max", "best", is_flag=True, help="The best ratio, at several times the work."),
            click.option("--base", metavar="OLD", help="Only what differs from OLD, which the other side has."),
            click.option("--seal", is_flag=True, help="Add SEAL.json: what the model predicts, for verify --seal."),
            click.option("--two-files", is_flag=True, help="Add parameters and run.py, to run with numpy alone."),
            click.option("--sign", metavar="KEY", help="A P-256 private key (PEM): writes model.sig."),
            click.option("--with-wheels", "wheels", is_flag=True, help="Add zstandard for this Python and system."),
            click.option("--repository", metavar="URL", default="", help="Where the model comes from."),
            click.option("--revision", metavar="REV", default="", help="Which revision of it."),
            click.option("--license", metavar="NAME", default="", help="Its licence. [default: as its README says]"),
            click.option("--format", "form", type=FORMATS, default="volumes", help="oci: a layout for registries."),
            click.option("--plan", "plan_only", is_flag=True, help="Volumes, parity and time, from headers alone."),
            click.option("--force", is_flag=True, help="Replace a bundle that stands there."),
            threads_option,
            quiet_option,
            json_option,
        )
    ):
        function = option(function)
    return function


def run(src: str, bundle: str, given: dict[str, Any]) -> int:
    """Write the bundle, or say what it would be; the exit code."""
    if given["form"] == "oci":
        return _layout(src, bundle, given)
    from modelkit.operations import bundle_plan
    from modelkit.operations.bundle_create import create
    from modelkit.operations.bundle_notes import notes
    from modelkit.operations.bundle_origin import origin_of
    from modelkit.report import bundling
    from modelkit.report.progress import progress

    request = bundle_plan.Request(
        src,
        bundle,
        volume_size=given["volume_size"],
        parity=given["parity"],
        coding=given["coding"] or "zstd",
        best=given["best"],
        wheels=given["wheels"],
        force=given["force"],
        threads=given["threads"],
        sign=given["sign"],
        base=given["base"],
        seal=given["seal"],
        two_files=given["two_files"],
        origin=origin_of(src, given["repository"], given["revision"], given["license"]),
    )
    if given["plan_only"]:
        plan = bundle_plan.make(request)
        show(bundling.plan_document(plan), bundling.plan_lines(plan), as_json=given["as_json"])
        _say(given, *notes(plan))
        return 0
    with progress("bundle", None, quiet=given["quiet"]) as bar:
        created = create(request, bar)
    show(bundling.created_document(created), bundling.created_lines(created), as_json=given["as_json"])
    _say(given, *created.notes, bundling.trust(created))
    return 0


def _say(given: dict[str, Any], *texts: str) -> None:
    from modelkit.report import console

    for text in () if given["quiet"] else texts:
        console.note(text)


def _layout(src: str, bundle: str, given: dict[str, Any]) -> int:
    """An OCI image layout."""
    from modelkit.operations.bundle_oci import create
    from modelkit.operations.bundle_origin import origin_of
    from modelkit.report import packing
    from modelkit.report.progress import progress

    if any(given.get(name) for name in OF_VOLUMES):
        raise click.UsageError("--format oci takes --repository, --revision, --license, --quiet and --json only")
    origin = origin_of(src, given["repository"], given["revision"], given["license"])
    with progress("bundle", None, quiet=given["quiet"]) as bar:
        made = create(src, bundle, origin, bar)
    show(packing.layout_document(made), packing.layout_lines(made), as_json=given["as_json"])
    return 0

"""Bundles: carry a model across an air gap and know that it arrived."""

from __future__ import annotations

from typing import Any

import click

from modelkit.commands import _bundle_create
from modelkit.commands._bundling import key_option, media_option, show, threads_option
from modelkit.commands._options import json_option, quiet_option, run_safely


@click.group(
    epilog="""\b
Examples:
  modelkit bundle create model/ out.mkb --volume-size bd25 --parity 2
  modelkit bundle verify out.mkb
  modelkit bundle unpack out.mkb restored/

\b
Every command takes --json.
Exit codes: 0 done or whole, 1 damaged, refused or failed, 2 usage or no manifest anywhere, 130 interrupted."""
)
def command() -> None:
    """Carry a model across an air gap: volumes, parity, a receiver that needs only Python."""


@command.command(
    epilog="""\b
Examples:
  modelkit bundle create model/ out.mkb --volume-size dvd
  modelkit bundle create model.gguf out.mkb --volume-size 4GB --parity 2 --portable
  modelkit bundle create model/ out.mkb --volume-size auto --plan

\b
SIZE: fat32, cd700, dvd, dvd-dl, bd25, bd50, bd100 (media leave 16 MiB for the file system and the small files),
auto (what is free where BUNDLE will stand), or bytes: 4GB, 512MiB.

\b
Exit codes: 0 written, 1 refused or failed, 2 usage, 130 interrupted: run again to go on."""
)
@click.argument("src")
@click.argument("bundle")
@_bundle_create.options
def create(src: str, bundle: str, **options: Any) -> None:
    """Pack SRC, a file or a folder, into BUNDLE: the same bytes come out on the other side.

    Run again after an interruption, it finishes the same bundle. With SOURCE_DATE_EPOCH set, two runs write the
    same bytes, whatever the number of threads. Without --parity, bundles of four volumes and more get one.
    """
    run_safely(lambda: _bundle_create.run(src, bundle, options))


@command.command(
    epilog="""\b
Examples:
  modelkit bundle verify out.mkb
  modelkit bundle verify /media/stick/out.mkb --verify-media --key sender.pub

\b
Exit codes: 0 whole, 1 damaged, refused or not signed with KEY, 2 usage or no manifest anywhere, 130 interrupted."""
)
@click.argument("bundle")
@key_option
@media_option
@threads_option
@quiet_option
@json_option
def verify(bundle: str, key: str | None, media: bool, threads: int | None, quiet: bool, as_json: bool) -> None:
    """Check every stored byte of BUNDLE, and say whether parity suffices where something is damaged."""

    def work() -> int:
        from modelkit.operations.bundle_verify import verify
        from modelkit.report import bundling
        from modelkit.report.progress import progress

        with progress("verify", None, quiet=quiet) as bar:
            found = verify(bundle, key=key, media=media, threads=threads, progress=bar)
        show(bundling.verified_document(found), bundling.verified_lines(found), as_json=as_json)
        return 0 if found.good else 1

    run_safely(work)


@command.command(
    "list",
    epilog="""\b
Examples:
  modelkit bundle list out.mkb
  modelkit bundle list out.mkb --json

\b
Exit codes: 0 shown, 1 failed, refused or not signed with KEY, 2 usage or no manifest anywhere.""",
)
@click.argument("bundle")
@key_option
@media_option
@json_option
def list_(bundle: str, key: str | None, media: bool, as_json: bool) -> None:
    """Show the files, volumes, sizes and ratio of BUNDLE."""

    def work() -> int:
        from modelkit.operations.bundle_signature import open_signed
        from modelkit.report import bundling

        found = open_signed(bundle, key, media=media)
        show(bundling.list_document(found), bundling.list_lines(found), as_json=as_json)
        return 0

    run_safely(work)


@command.command(
    epilog="""\b
Examples:
  modelkit bundle repair out.mkb
  modelkit bundle repair out.mkb --key sender.pub

\b
Exit codes: 0 whole or made whole, 1 not enough is left, or not signed with KEY: nothing is changed, 2 usage or no
manifest anywhere, 130 interrupted."""
)
@click.argument("bundle")
@key_option
@media_option
@threads_option
@quiet_option
@json_option
def repair(bundle: str, key: str | None, media: bool, threads: int | None, quiet: bool, as_json: bool) -> None:
    """Restore the damaged and missing volumes of BUNDLE from its parity volumes.

    Everything is written beside, verified, then renamed; where parity does not suffice, nothing is changed.
    """

    def work() -> int:
        from modelkit.operations.bundle_repair import repair
        from modelkit.report import bundling
        from modelkit.report.progress import progress

        with progress("repair", None, quiet=quiet) as bar:
            done = repair(bundle, key=key, media=media, threads=threads, progress=bar)
        show(bundling.repaired_document(done), bundling.repaired_lines(done), as_json=as_json)
        return 1 if done.unrepaired else 0

    run_safely(work)


@command.command(
    epilog="""\b
Examples:
  modelkit bundle unpack out.mkb restored/
  modelkit bundle unpack /media/disc restored/     (again with each disc)

\b
Exit codes: 0 every file is there and verified, 1 damaged, incomplete or refused: run again to go on, 2 usage, or
neither a manifest nor a volume is there, 130 interrupted."""
)
@click.argument("bundle")
@click.argument("dst")
@click.option("--base", metavar="OLD", help="What the bundle was made against, if it was.")
@key_option
@threads_option
@quiet_option
@json_option
def unpack(bundle: str, dst: str, **options: Any) -> None:
    """Restore the files of BUNDLE under DST, a new or empty folder, byte for byte.

    A file gets its name when it is whole and its SHA-256 is right. Run again after an interruption, or with
    further volumes, it goes on.
    """

    def work() -> int:
        from modelkit.operations.bundle_unpack import unpack
        from modelkit.report import bundling
        from modelkit.report.progress import progress

        with progress("unpack", None, quiet=options["quiet"]) as bar:
            done = unpack(
                bundle, dst, base=options["base"], key=options["key"], threads=options["threads"], progress=bar
            )
        document, lines = bundling.unpacked_document(done, dst), bundling.unpacked_lines(done, dst)
        show(document, lines, as_json=options["as_json"])
        return 0

    run_safely(work)

"""What `bundle` would do, did, and found."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from modelkit.operations.bundle_create import Created
from modelkit.operations.bundle_open import Bundle
from modelkit.operations.bundle_plan import Plan
from modelkit.operations.bundle_repair import Repaired
from modelkit.operations.bundle_signature import Signature
from modelkit.operations.bundle_unpack import Unpacked
from modelkit.operations.bundle_verify import UNLISTED, Verified
from modelkit.report.text import counted, escape, seconds, size, table


def plan_lines(plan: Plan) -> list[str]:
    """`create --plan`."""
    sizing, total, files = plan.sizing, plan.tree.size, counted(len(plan.tree.files), "file")
    each = f" of {sizing.volume:,} bytes ({size(sizing.volume)})" if sizing.volume else ""
    return [
        f"source    {escape(plan.tree.name)}: {files}, {counted(total, 'byte')} ({size(total)})",
        f"stored    about {size(plan.estimate)}, {plan.estimate / max(total, 1):.3f} of the source: an estimate",
        f"volumes   about {plan.volumes:,}{each}",
        f"parity    {_parity(plan)}",
        f"time      {seconds(plan.seconds)} of one core, {plan.request.workers} at work: an estimate",
    ]


def _parity(plan: Plan) -> str:
    count = plan.sizing.parity
    if not count:
        return "none"
    return (
        f"{count}: {'that many volumes' if count > 1 else 'one volume'} may be lost, {size(count * plan.sizing.body)}"
    )


def plan_document(plan: Plan) -> dict[str, Any]:
    """`create --plan --json`."""
    sizing = plan.sizing
    return {
        "schema_version": 1,
        "source": plan.request.source,
        "bundle": plan.request.bundle,
        "files": len(plan.tree.files),
        "bytes": plan.tree.size,
        "pieces": len(plan.cuts.table),
        "coding": plan.request.coding,
        "volume_bytes": sizing.volume or None,
        "parity": sizing.parity,
        "stripe": sizing.stripe,
        "estimated": {
            "stored_bytes": plan.estimate,
            "ratio": round(plan.estimate / max(plan.tree.size, 1), 4),
            "volumes": plan.volumes,
            "parity_bytes": sizing.parity * sizing.body,
            "core_seconds": round(plan.seconds, 1),
        },
    }


def created_lines(created: Created) -> list[str]:
    """What was written."""
    manifest, total = created.manifest, created.manifest.description.size
    volumes = [*manifest.data, *manifest.parity]
    lines = [f"{volume.name}  {counted(created.files[volume.name][0], 'byte')}" for volume in volumes]
    if created.resumed:
        lines.insert(0, f"resumed: {created.resumed} of {counted(len(manifest.data), 'volume')} done already")
    return [
        *lines,
        f"bundle id {manifest.description.id}",
        f"{counted(total, 'byte')} in {created.stored:,}: {created.stored / max(total, 1):.4f}",
    ]


def trust(created: Created) -> str:
    """What must travel another way."""
    return "digests inside the bundle detect damage, not forgery: tell the receiver the bundle id by another way" + (
        ", and the public key too" if created.plan.request.sign else ""
    )


def created_document(created: Created) -> dict[str, Any]:
    """`create --json`."""
    description = created.manifest.description
    files = sorted(created.files.items())
    return {
        "schema_version": 1,
        "bundle": created.plan.request.bundle,
        "id": description.id,
        "created": created.manifest.created,
        "bytes": description.size,
        "stored_bytes": created.stored,
        "ratio": round(created.stored / max(description.size, 1), 6),
        "volumes": len(created.manifest.data),
        "volumes_resumed": created.resumed,
        "parity": description.parity,
        "notes": list(created.notes),
        "files": [{"name": name, "bytes": count, "sha256": digest} for name, (count, digest) in files],
    }


def verified_lines(found: Verified) -> list[str]:
    """Every volume that is not whole, every document, and what can be done."""
    manifest, signed = found.bundle.manifest, found.signature
    lines = [f"bundle id {manifest.description.id}"]
    lines += [f"{state.volume.name}  {'; '.join(map(escape, state.faults))}" for state in found.damaged]
    lines += [f"{escape(name)}  {escape(why)}" for name, why in sorted(found.documents.items())]
    lines += [escape(fault) for fault in found.bundle.faults]
    lines += [f"{escape(name)}  {why}" for name, why in sorted(found.bundle.strangers.items())]
    if signed is not None:
        lines += _signature_lines(signed)
    count = len(manifest.volumes)
    if found.whole and not found.good:
        return [*lines, "NOT signed with this key: do not use what is in the bundle"]
    if found.whole:
        return [
            *lines,
            f"whole: {counted(count, 'volume')}, {counted(manifest.description.size, 'byte')} when unpacked",
        ]
    if found.damaged and not found.repairable:
        places = counted(len(found.hopeless), "stripe")
        return [*lines, f"damaged: parity does not suffice at {places}; copy volumes again"]
    if found.damaged:
        return [*lines, f"damaged: {len(found.damaged)} of {counted(count, 'volume')}; parity suffices, run repair"]
    if (
        found.documents
        and set(found.documents) <= set(UNLISTED)
        and not (found.bundle.faults or found.bundle.strangers)
    ):
        return [*lines, "damaged: the volumes are whole; the files above cannot be made again: copy them again"]
    return [*lines, "damaged: the volumes are whole, other files are not; run repair"]


def _signature_lines(signed: Signature) -> list[str]:
    lines = [f"key       SHA-256 {signed.fingerprint}"]
    return [
        *lines,
        *(f"signature {escape(fault)}" for fault in signed.faults or ("good: of this key and these files",)),
    ]


def verified_document(found: Verified) -> dict[str, Any]:
    """`verify --json`."""
    signed = found.signature
    return {
        "schema_version": 1,
        "bundle": str(found.bundle.path),
        "id": found.bundle.manifest.description.id,
        "whole": found.whole,
        "repairable": found.repairable,
        "volumes": [
            {
                "name": state.volume.name,
                "file": state.path.name if state.path is not None else None,
                "whole": state.whole,
                "faults": list(state.faults),
                "bad_stripes": len(state.bad),
                "stripes": state.volume.body // found.bundle.manifest.description.stripe,
            }
            for state in found.volumes
        ],
        "documents": found.documents,
        "manifest": list(found.bundle.faults),
        "strangers": dict(found.bundle.strangers),
        "signature": None
        if signed is None
        else {"good": signed.good, "key": signed.fingerprint, "faults": list(signed.faults)},
    }


def list_lines(bundle: Bundle) -> list[str]:
    """Files, volumes, ratio."""
    description = bundle.manifest.description
    rows: list[tuple[object, ...]] = [("file", "bytes", "sha256")]
    rows += [(file.path, f"{file.size:,}", file.sha256) for file in description.files]
    volumes: list[tuple[object, ...]] = [("volume", "bytes", "pieces", "here")]
    for located in bundle.volumes:
        volume = located.volume
        here = located.why or "yes"
        volumes.append((volume.name, f"{bundle.manifest.size(volume):,}", f"{volume.pieces:,}", here))
    stored = _stored(bundle)
    return [
        *table(rows, right=(1,)),
        "",
        *table(volumes, right=(1, 2)),
        "",
        f"bundle id {description.id}",
        f"made at   {escape(bundle.manifest.created)} with {_writer(description.writer.items())}",
        f"{counted(description.size, 'byte')} in {stored:,}: {stored / max(description.size, 1):.4f}",
    ]


def _stored(bundle: Bundle) -> int:
    return sum(bundle.manifest.size(volume) for volume in bundle.manifest.data)


def _writer(items: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{escape(name)} {escape(version)}" for name, version in sorted(items))


def list_document(bundle: Bundle) -> dict[str, Any]:
    """`list --json`."""
    manifest = bundle.manifest
    description = manifest.description
    stored = _stored(bundle)
    return {
        "schema_version": 1,
        "bundle": str(bundle.path),
        "id": description.id,
        "created": manifest.created,
        "name": description.name,
        "coding": description.coding,
        "writer": dict(description.writer),
        "source": description.to_json()["source"],
        "bytes": description.size,
        "stored_bytes": stored,
        "ratio": round(stored / max(description.size, 1), 6),
        "files": [{"path": file.path, "bytes": file.size, "sha256": file.sha256} for file in description.files],
        "folders": list(description.folders),
        "volumes": [
            {
                "name": located.volume.name,
                "kind": located.volume.kind,
                "bytes": manifest.size(located.volume),
                "pieces": located.volume.pieces,
                "present": located.path is not None,
            }
            for located in bundle.volumes
        ],
    }


def repaired_lines(done: Repaired) -> list[str]:
    """What was restored, and what was not."""
    lines = [f"{name}  restored" for name in (*done.volumes, *done.documents)]
    lines += [f"{escape(name)}  put aside: does not belong to this bundle" for name in done.aside]
    lines += [f"{name}  listed as it is: only SHA256SUMS had known its digest" for name in done.unproven]
    lines += [f"{escape(name)}  {escape(why)}: copy it again" for name, why in done.unrepaired.items()]
    if done.unrepaired:
        return [*lines, "the volumes are whole; the files above cannot be made again here"]
    return [*lines, f"whole: {counted(done.stripes, 'stripe')} restored" if lines else "whole: nothing to do"]


def repaired_document(done: Repaired) -> dict[str, Any]:
    """`repair --json`."""
    return {
        "schema_version": 1,
        "bundle": str(done.before.bundle.path),
        "id": done.before.bundle.manifest.description.id,
        "volumes": list(done.volumes),
        "stripes": done.stripes,
        "documents": list(done.documents),
        "put_aside": list(done.aside),
        "unrepaired": dict(done.unrepaired),
        "unproven": list(done.unproven),
    }


def unpacked_lines(done: Unpacked, destination: str) -> list[str]:
    """What is there now."""
    lines = [f"resumed: {counted(done.resumed, 'byte')} had been there already"] if done.resumed else []
    what = f"{counted(done.files, 'file')}, {counted(done.size, 'byte')}"
    return [*lines, f"{escape(destination)}  {what}, every SHA-256 as it was"]


def unpacked_document(done: Unpacked, destination: str) -> dict[str, Any]:
    """`unpack --json`."""
    return {
        "schema_version": 1,
        "bundle": str(done.bundle.path),
        "id": done.bundle.manifest.description.id,
        "destination": destination,
        "files": done.files,
        "bytes": done.size,
        "bytes_resumed": done.resumed,
    }

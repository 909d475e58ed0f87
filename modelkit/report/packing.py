"""What `bundle create --format oci` wrote."""

from __future__ import annotations

from typing import Any

from modelkit.operations.bundle_oci import TAG, Layout
from modelkit.report.text import counted, escape, size


def layout_lines(made: Layout) -> list[str]:
    """For a person."""
    return [
        f"{escape(made.path)}: an OCI image layout, {counted(made.layers, 'layer')}, {size(made.size)}",
        f"manifest  {made.digest}, tagged {TAG}",
        f"next      skopeo copy oci:{escape(made.path)}:{TAG} docker://REGISTRY/NAME:{TAG}",
    ]


def layout_document(made: Layout) -> dict[str, Any]:
    """`--json`."""
    return {
        "schema_version": 1,
        "bundle": made.path,
        "format": "oci",
        "manifest": made.digest,
        "tag": TAG,
        "layers": made.layers,
        "size": made.size,
    }

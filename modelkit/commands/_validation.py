"""The body of `validate`: policy, run, reports, exit code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelkit.errors import BadRequest
from modelkit.operations.reports import check_report_beside


def run(paths: tuple[str, ...], options: Mapping[str, Any]) -> int:
    from modelkit.operations import validate as operation
    from modelkit.report import findings

    policy = _policy(paths, options)
    outputs = _outputs(options)
    for _, output in outputs:
        if output is not None:
            check_report_beside(output, [Path(path) for path in paths])
    level: Any = options["level"] or (policy.level if policy else None) or "header"
    request = operation.Request(
        paths,
        level,
        options["fail_on"] or (policy.fail_on if policy else None) or "error",
        policy,
        _baseline(options["baseline"] or (policy.baseline if policy else None)),
        options["allow_unchecked"],
        options["lfs_ok"],
    )
    report = _validated(request, quiet=options["quiet"] or level == "header")
    for format, output in outputs:
        findings.write(report, format, output)
    return 0 if options["exit_zero"] else report.exit_code


def _validated(request: Any, *, quiet: bool) -> Any:
    from modelkit.operations import validate as operation

    if quiet:
        return operation.validate(request)
    from modelkit.operations.validate_places import total
    from modelkit.report.progress import progress

    size, done = total(request.paths), 0
    with progress("validate", size, quiet=quiet) as bar:

        def step(count: int) -> None:
            nonlocal done
            done += count
            if bar is not None:
                bar(done, size)

        return operation.validate(request, step)


def _outputs(options: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """Formats with where they go: the files belong to the last formats, what is left goes to stdout."""
    formats = [*(["json"] if options["as_json"] else []), *options["formats"]] or ["text"]
    files: list[str | None] = list(options["outputs"])
    if len(files) > len(formats):
        raise BadRequest(f"{len(files)} outputs for {len(formats)} formats", "give one -f for each -o")
    places = [None] * (len(formats) - len(files)) + files
    if places.count(None) > 1:
        raise BadRequest("more than one format would go to stdout", "give a file for each but one: -f sarif -o FILE")
    return list(zip(formats, places, strict=True))


def _policy(paths: tuple[str, ...], options: Mapping[str, Any]) -> Any:
    if options["no_policy"]:
        return None
    from modelkit.operations.policy import nearest

    found = options["policy"] or nearest(paths)
    if found is None:
        return None
    from modelkit.operations.policy import load

    return load(found)


def _baseline(path: str | None) -> frozenset[str]:
    if path is None:
        return frozenset()
    from modelkit.sources import explained

    with explained(path):
        data = Path(path).read_bytes()
    try:
        found = json.loads(data)["findings"]
        return frozenset(str(one["fingerprint"]) for one in found)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadRequest(f"{path}: is no report of modelkit", "write one: modelkit validate -f json -o FILE") from None

"""Judge model files: structure, config, values, names, security, integrity, policy."""

from __future__ import annotations

import click

from modelkit.commands._options import quiet_option, run_safely
from modelkit.rules._contract import LEVELS

FORMATS = ("text", "json", "sarif", "junit", "github")


@click.command(
    epilog="""\b
Examples:
  modelkit validate model/
  modelkit validate model.gguf --level full
  modelkit validate models/*.safetensors -f sarif -o modelkit.sarif
  modelkit validate model/ --policy modelkit.toml --fail-on warning
  modelkit validate https://example.com/model.gguf

\b
Levels: header reads no tensor data; sample reads a twentieth of it, the same in every run;
full reads all of it once: digests, NaN, zeros, saturation.

\b
Exit codes: 0 clean, 1 findings at or above --fail-on, 2 usage, or nothing found but not
everything could be checked, 130 interrupted."""
)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("--level", type=click.Choice(LEVELS), help="How thoroughly. [default: header, or the policy's]")
@click.option(
    "-f", "--format", "formats", type=click.Choice(FORMATS), multiple=True, help="Of the report; may be repeated."
)
@click.option(
    "-o", "--output", "outputs", metavar="FILE", multiple=True, help="Where the last -f goes. [default: stdout]"
)
@click.option("--json", "as_json", is_flag=True, help="Short for -f json.")
@click.option("--fail-on", type=click.Choice(["error", "warning", "info"]), help="[default: error, or the policy's]")
@click.option("--policy", metavar="FILE", help="A modelkit.toml. [default: the nearest one above here]")
@click.option("--no-policy", is_flag=True, help="Use no policy file.")
@click.option("--baseline", metavar="FILE", help="A JSON report: what it has found is known and counts for nothing.")
@click.option("--allow-unchecked", is_flag=True, help="Exit 0 although something could not be checked.")
@click.option("--exit-zero", is_flag=True, help="Exit 0 whatever is found (for reports only).")
@click.option("--lfs-ok", is_flag=True, help="A git-lfs pointer in place of a file is no finding.")
@quiet_option
def command(paths: tuple[str, ...], **options: object) -> None:
    """Judge PATHs: model files and folders of any kind, hostile ones too. Nothing of a model is run.

    A PATH may be the https URL of one file: its headers are judged, and nothing is downloaded but them.
    What each rule means: modelkit explain RULE.
    """
    from modelkit.commands import _validation

    run_safely(lambda: _validation.run(paths, options))

"""Something was not checked.

A limit was reached, a dtype is not understood, a part of a file could not be followed, a list of digests cannot be
read, a checkpoint holds a packed file or another archive, or a file is of no known kind. Each is also listed under
`coverage.skipped`. A rule that does not apply (no config, an unknown architecture) is no gap: those stand under
`coverage.not_applicable`.

Why: A scan that skipped something must not look like a clean one: the exit code is 2, never 0.

Fix: See the message; `--allow-unchecked` accepts it.

    weights.npz: 2 compressed arrays were not looked at: their values were not checked
"""

from modelkit.rules._contract import Rule

rule = Rule("Something was not checked", "error", "identity")

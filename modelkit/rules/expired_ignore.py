"""An ignore of the policy has expired.

An `[[ignore]]` with `expires` in the past covers nothing any more; findings that it would cover are reported
again, and this says why.

Why: A reason that was good for a while should be looked at again.

Fix: Fix the model, or give the ignore a new day and reason.

    modelkit.toml: the ignore of unknown-tensor in models/old/* expired on 2027-01-01: retired head
"""

from modelkit.rules._contract import Rule

rule = Rule("An ignore of the policy has expired", "warning", "policy")

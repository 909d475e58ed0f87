"""The header is not JSON.

Strict JSON is expected: no NaN, no key twice within an entry, at most 8 levels, at most 20 digits in a number,
nothing but spaces behind it.

Why: Lenient parsers (Python's among them) accept what others refuse, so one file means two things.

Fix: Save the file again with a current safetensors library.

    model.safetensors: header is not JSON at byte 39: NaN is not JSON
"""

from modelkit.rules._contract import Rule

rule = Rule("The header is not JSON", "error", "safetensors")

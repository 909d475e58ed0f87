"""An archive member that would be written outside the folder.

Member names with `..`, absolute ones, drives, backslashes; and two members of one name.

Why: An unpacker overwrites files of the machine; of two equal names, two readers take different ones.

Fix: Do not unpack it.

    model.pt: member '../../../../outside.txt' leaves the folder
"""

from modelkit.rules._contract import Rule

rule = Rule("An archive member that would be written outside the folder", "error", "security")

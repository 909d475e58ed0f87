"""An array longer than the file, or nested too deeply.

Count times the least size of an item must fit into the file; arrays nest at most four deep.

Why: 2^61 items of 4 bytes wrap around to a size of 0.

Fix: Fetch the file again.

    model.gguf: key 'x.y': array of 2,305,843,009,213,693,952 items at 1,724 in a file of 57,984 bytes
"""

from modelkit.rules._contract import Rule

rule = Rule("An array longer than the file, or nested too deeply", "error", "gguf")

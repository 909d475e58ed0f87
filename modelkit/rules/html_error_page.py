"""A web page or an error answer was saved as the model.

The file begins with `<!doctype`, `<html`, `<?xml` or `{"error"`.

Why: The server answered with a page (log in, accept the licence, expired link) and the downloader saved it
under the model's name.

Fix: Log in or accept the licence, then download again.

    model.safetensors: this is a web page or an error answer ("AccessDenied"), not a model
"""

from modelkit.rules._contract import Rule

rule = Rule("A web page or an error answer was saved as the model", "error", "identity")

"""A conversation as the model was trained to read it: its own chat template, rendered.

    messages = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = chat.render(vocabulary, messages)
    ids = text.encode(prompt, special=True, eos=False)     # BOS only if the template has not written it

The template is Jinja text out of the model's files, written for transformers' `apply_chat_template`; the same blocks,
variables and functions are there: messages, tools, documents, add_generation_prompt, bos_token, eos_token, unk_token,
pad_token, raise_exception, strftime_now, tojson, break, continue, {% generation %}.

A template is a stranger's program. It runs in Jinja's sandbox, in a process of its own that is ended after ten seconds
and may take 1 GiB (see `_chat_worker`). What a user types goes into the prompt as it is: a message that spells
`<|im_end|>` ends its turn, here as in transformers and llama.cpp. Where that matters, refuse such messages before.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.util import find_spec
from typing import Any

from modelkit.errors import BadRequest, BrokenFile, ModelkitError, Unsupported
from modelkit.tokenizers._library import INSTALL
from modelkit.tokenizers._vocabulary import Vocabulary, check_texts

SECONDS = 10.0  # for a template, with the start of its process (0.2 s); real ones take milliseconds
LARGEST_TEMPLATE = 2**20  # bytes; the largest in use have some 40 KB
SHOWN = 200  # characters of a template's own message

_PLAIN = "give the prompt as plain text"

Message = Mapping[str, object]

_START = (
    "import json, sys; task = json.load(sys.stdin); sys.path[:] = task['path'];"
    " from modelkit.tokenizers._chat_worker import main; main(task)"
)


def render(
    vocabulary: Vocabulary,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = True,
    tools: Sequence[Mapping[str, object]] | None = None,
    documents: Sequence[Mapping[str, object]] | None = None,
    variables: Mapping[str, object] | None = None,
    now: datetime | None = None,
) -> str:
    """The prompt text. With `add_generation_prompt` it ends where the assistant begins to speak.

    messages: {"role": ..., "content": ...}, as the template wants them. tools: JSON schemas. variables: what else this
    template knows (enable_thinking ...). now: the time that `strftime_now` tells.
    Unsupported when there is no template, when it refuses the conversation or fails on it, and without Jinja;
    BrokenFile when it is no Jinja, breaks out of its sandbox or does not come to an end.
    """
    template = vocabulary.chat_template
    if template is None:
        fix = (
            "give the prompt as plain text, or put the tokenizer_config.json or chat_template.jinja of the model there"
        )
        raise Unsupported("this model has no chat template", fix)
    if len(template) > LARGEST_TEMPLATE:
        raise BrokenFile(f"a chat template of {len(template):,} characters is not plausible", _PLAIN)
    if find_spec("jinja2") is None:
        raise Unsupported("chat templates need the `jinja2` library, which is not installed", INSTALL)
    given = {"messages": messages, "tools": tools, "documents": documents}
    known = {**_marks(vocabulary), **(variables or {}), **given, "add_generation_prompt": add_generation_prompt}
    found = _run({"template": template, "variables": known, "now": (now or datetime.now()).isoformat()})
    if "text" not in found:
        raise _explained(found)
    text = str(found["text"])
    check_texts([text], "the text that the chat template makes")
    return text


def _marks(vocabulary: Vocabulary) -> dict[str, str]:
    roles = {"bos": vocabulary.bos, "eos": vocabulary.eos, "unk": vocabulary.unknown, "pad": vocabulary.padding}
    return {f"{word}_token": vocabulary.tokens[index] for word, index in roles.items() if index is not None}


def _run(task: dict[str, Any]) -> dict[str, Any]:
    """The worker's answer."""
    import subprocess

    try:
        data = json.dumps({**task, "path": sys.path}).encode()
    except (TypeError, ValueError) as error:
        raise BadRequest(f"the conversation holds what JSON cannot say: {error}", "give text, numbers, lists") from None
    command = [sys.executable, "-I", "-c", _START]  # -I: its path is ours, with nothing added
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=SECONDS, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise BrokenFile(f"the chat template is not done after {SECONDS:g} s", _PLAIN) from None
    try:
        found = json.loads(done.stdout)
    except ValueError:
        last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2][:SHOWN]
        message = f"the chat template brought its process down (exit {done.returncode}{': ' + last if last else ''})"
        raise BrokenFile(message, _PLAIN) from None
    return dict(found)


def _explained(found: Mapping[str, Any]) -> ModelkitError:
    message = str(found["message"])[:SHOWN].rstrip(".")
    fault = found["fault"]
    if fault == "old":
        return Unsupported(f"jinja2 {message} has known holes in its sandbox", INSTALL)
    if fault == "refusal":
        return Unsupported(f"the model's chat template does not take this conversation: {message}", "Change the roles")
    if fault == "failure":
        return Unsupported(f"the model's chat template fails on this conversation: {message}", _PLAIN)
    if fault == "syntax":
        return BrokenFile(f"line {found['line']} of the chat template is not Jinja: {message}", _PLAIN)
    if fault == "security":
        return BrokenFile(f"the chat template tries what is not its business: {message}", _PLAIN)
    return BrokenFile(f"the chat template wants too much: {message}", _PLAIN)

"""Chat templates: what transformers makes of them, and what strangers could do with them."""

import json
import os
import time
from datetime import datetime
from pathlib import Path

import pytest
from chat_cases import CONVERSATIONS, EXPECTED, TEMPLATES, TOOL, cases
from test_tokenizer_json import document, read
from vocabulary_files import metadata

from modelkit.errors import BadRequest, BrokenFile, Unsupported
from modelkit.tokenizers import Text, Vocabulary, chat, gguf_keys

USER = [{"role": "user", "content": "hi"}]


def model(template):
    return Vocabulary("bpe", ("<s>", "</s>", "<pad>"), (3, 3, 3), merges=(), bos=0, eos=1, chat_template=template)


def rendered(template, messages=USER, **options):
    return chat.render(model(template), messages, **options)


@pytest.mark.parametrize("name", cases())
def test_as_transformers_renders_it(name):
    template, conversation, asks, with_tools, variables = cases()[name]
    tools = [TOOL] if with_tools else None
    found = rendered(
        TEMPLATES[template],
        CONVERSATIONS[conversation],
        add_generation_prompt=asks,
        tools=tools,
        variables=variables,
    )
    assert found == json.loads(EXPECTED.read_text(encoding="utf-8"))[name]


def test_every_case_was_recorded():
    assert json.loads(EXPECTED.read_text(encoding="utf-8")).keys() == cases().keys()


def test_variables_and_functions():
    assert rendered("{{ bos_token }}{{ eos_token }}{{ pad_token is defined }}") == "<s></s>False"
    assert rendered("{{ strftime_now('%d.%m.%Y') }}", now=datetime(2024, 7, 26)) == "26.07.2024"
    assert rendered("{{ tools }} {{ documents }} {{ add_generation_prompt }}") == "None None True"
    assert rendered("{{ documents[0].title }}", documents=[{"title": "a"}]) == "a"
    assert rendered("{{ {'b': '<\u00e9>', 'a': 1} | tojson }}") == '{"b": "<\u00e9>", "a": 1}'
    assert rendered("{{ [1] | tojson(indent=1, ensure_ascii=True) }}") == "[\n 1\n]"
    assert rendered("{{ dict(a=1).a }}{{ dict.fromkeys('ab', 0) }}") == "1{'a': 0, 'b': 0}"
    assert (
        rendered("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}x{% endfor %}", USER * 3) == "xx"
    )
    assert rendered("{{ messages[0].content }}", [{"role": "user", "content": "<|im_end|> \U0001f600"}]).endswith(
        "\U0001f600"
    )


def test_a_prompt_begins_once():
    """The ids of a prompt: special tokens are read, BOS comes from the template or from the metadata."""
    found = read(document(added_tokens=[{"id": 5, "content": "<s>", "special": True}]))
    for template in ("{{ bos_token }}{{ messages[0].content }}", "{{ messages[0].content }}"):
        vocabulary = Vocabulary(
            "bpe", found.tokens, found.types, merges=found.merges, pre="gpt-2", bos=5, add_bos=True,
            chat_template=template,
        )  # fmt: skip
        prompt = chat.render(vocabulary, [{"role": "user", "content": "abc"}])
        assert Text(vocabulary).encode(prompt, special=True, eos=False) == [5, 4]


def test_no_template():
    with pytest.raises(Unsupported, match=r"no chat template.*plain text.*chat_template\.jinja"):
        chat.render(model(None), USER)


def test_without_jinja(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    with pytest.raises(Unsupported, match=r"pip install 'modelkit-weights\[text\]'"):
        rendered("x")


def test_what_the_template_does_not_take():
    gemma = TEMPLATES["gemma"]
    with pytest.raises(Unsupported, match="there is no system role"):
        rendered(gemma, CONVERSATIONS["system"])
    with pytest.raises(Unsupported, match="must take turns"):
        rendered(gemma, USER * 2)
    with pytest.raises(Unsupported, match=r"fails on this conversation: UndefinedError"):
        rendered("{{ messages[7].content.x }}")
    with pytest.raises(BadRequest, match="JSON"):
        rendered("x", [{"role": "user", "content": object()}])


def test_what_is_no_jinja():
    with pytest.raises(BrokenFile, match=r"line 2 .*unknown tag 'foo'"):
        rendered("a\n{% foo %}")
    with pytest.raises(BrokenFile, match="not plausible"):
        rendered("x" * (2**20 + 1))
    with pytest.raises(BrokenFile, match="ud800"):
        rendered("{{ '\\ud800' }}")


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% set ns = namespace(__init__=1) %}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    ],
)
def test_the_sandbox_holds(template):
    with pytest.raises((BrokenFile, Unsupported), match=r"not its business|fails on"):
        rendered(template)


def test_what_the_sandbox_hides_is_empty():
    assert rendered("{{ ''|attr('__class__')|attr('__mro__')|first }}{{ '{0.__class__}'.format(1) }}.") == "."


@pytest.mark.parametrize(
    "template", ["{% include 'pyproject.toml' %}", "{% import 'os' as os %}{{ os }}", "{{ lipsum(9) }}"]
)
def test_nothing_is_loaded(template):
    with pytest.raises(Unsupported, match="fails on"):
        rendered(template)


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 10**10 }}",
        "{{ [messages] * 10**8 }}",
        "{{ 10 ** (10 ** 10) }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ " + "-" * 100000 + "1 }}",
    ],
)
def test_too_much_is_noticed(template):
    start = time.monotonic()
    with pytest.raises(BrokenFile, match="wants too much"):
        rendered(template)
    assert time.monotonic() - start < 9  # before the clock ends it


MEMORY = [
    "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "{{ 'x'.center(10**10) }}",
    "{{ '%9999999999d' % 1 }}",
    "{{ '{:>9999999999}'.format(1) }}",
    "{{ ('a' * 999999) | replace('', 'b' * 999999) }}",
]


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the limit of memory is one of Linux")
@pytest.mark.parametrize("template", MEMORY)
def test_memory_is_limited(template):
    with pytest.raises(BrokenFile, match=r"wants too much|brought its process down"):
        rendered(template)


def test_time_is_limited(monkeypatch):
    monkeypatch.setattr(chat, "SECONDS", 1.0)
    start = time.monotonic()
    with pytest.raises(BrokenFile, match="not done after 1 s"):
        rendered("{% for i in range(99999) %}{% for i in range(99999) %}{% endfor %}{% endfor %}")
    assert time.monotonic() - start < 5


def test_a_process_that_dies(monkeypatch):
    monkeypatch.setattr(chat, "_START", "import os; os.write(2, b'a\\nlast words\\n'); os.abort()")
    with pytest.raises(BrokenFile, match=r"process down \(exit -?\d+: last words\)"):
        rendered("x")


def test_an_old_jinja(monkeypatch):
    monkeypatch.setattr(
        chat, "_START", chat._START.replace("main(task)", "import jinja2; jinja2.__version__ = '3.1.5'; main(task)")
    )
    with pytest.raises(Unsupported, match=r"jinja2 3\.1\.5 has known holes"):
        rendered("x")


@pytest.mark.reference
def test_a_real_small_model():
    path = os.environ.get("MODELKIT_SMOLLM2")
    if not path:
        pytest.skip("MODELKIT_SMOLLM2 does not name SmolLM2-135M-Instruct in GGUF")
    with Path(path).open("rb") as file:
        vocabulary = gguf_keys.read(metadata(file.read(16 * 2**20)))
    prompt = chat.render(vocabulary, USER)
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    assert prompt == (
        f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = Text(vocabulary).encode(prompt, special=True, eos=False)
    assert (ids[0], ids.count(1), ids.count(2)) == (1, 3, 2)

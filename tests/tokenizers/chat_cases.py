"""Chat templates in the style of five families, conversations, and what transformers makes of them.

`python tests/tokenizers/chat_cases.py` with transformers installed writes chat_expected.json anew. The templates are
written for this test; they use the features that the families' own ones use: trimmed blocks, loop controls, macros,
namespaces, tests, filters, slices, tojson, raise_exception, generation marks.
"""

from __future__ import annotations

import json
from pathlib import Path

EXPECTED = Path(__file__).with_name("chat_expected.json")

CHATML = """\
{%- for message in messages -%}
    {%- if loop.first and message.role != 'system' -%}
        {{- '<|im_start|>system\\nYou are a small model that answers briefly.<|im_end|>\\n' -}}
    {%- endif -%}
    {{- '<|im_start|>' + message['role'] + '\\n' -}}
    {%- generation -%}{{- message['content'] + '<|im_end|>' + '\\n' -}}{%- endgeneration -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""

LLAMA3 = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set opening = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set opening = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Knowledge ends: December 2023\\nToday: " + date_string + "\\n\\n" }}
{%- if tools is not none %}
    {{- "Answer with a call of one of these functions.\\n\\n" }}
    {%- for tool in tools %}
        {{- tool | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- opening + "<|eot_id|>" }}
{%- for message in messages %}
    {%- if message.tool_calls is defined and message.tool_calls %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
        {{- '{"name": "' + call.name + '", "parameters": ' + (call.arguments | tojson) + "}<|eot_id|>" }}
        {%- continue %}
    {%- endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

GEMMA = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {{ raise_exception('there is no system role') }}
{%- endif -%}
{% for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('user and assistant must take turns') }}
    {%- endif -%}
    {% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
    {{ '<start_of_turn>' + role + '
' + (message['content'] | trim) + '<end_of_turn>
' }}
{% endfor %}
{% if add_generation_prompt %}
    {{'<start_of_turn>model
'}}
{%- endif %}
"""

QWEN = """\
{%- macro opening(text) -%}
<|im_start|>system
{{ text }}
{%- endmacro -%}
{%- set state = namespace(last=-1, thinking=enable_thinking is not defined or enable_thinking) %}
{%- for message in messages %}
    {%- if message.role == "user" %}{% set state.last = loop.index0 %}{% endif %}
{%- endfor %}
{{- opening(messages[0].content if messages[0].role == 'system' else 'You help.') }}
{%- if tools %}
    {{- "\\n\\n# Tools\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" ~ (tool | tojson) }}
    {%- endfor %}
    {{- "\\n</tools>" }}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- for message in messages if message.role != 'system' %}
    {%- set text = message.content %}
    {%- if message.role == 'assistant' and '</think>' in text %}
        {%- set text = text.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' ~ message.role ~ '\\n' ~ text ~ '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if not state.thinking %}{{- '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}
"""

PHI3 = """\
{% for message in messages %}
{% if message['role'] == 'system' and message['content'] %}{{'<|system|>
' + message['content'] + '<|end|>
'}}{% elif message['role'] in ['user', 'tool'] %}{{'<|user|>
' + message['content'] + '<|end|>
'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>
' + message['content'] + '<|end|>
'}}{% endif %}
{% endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>
' }}{% else %}{{ eos_token }}{% endif %}
"""

TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "gemma": GEMMA, "qwen": QWEN, "phi3": PHI3}

SYSTEM = {"role": "system", "content": " Be brief. "}
FIRST = {"role": "user", "content": '  What is \u6771\u4eac <b>&</b> "caf\u00e9"?\n'}
THOUGHT = {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nA city \U0001f5fc and a place."}
SECOND = {"role": "user", "content": "It's 5 o'clock: {{ 7*7 }} {% raw %}"}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "<tells> caf\u00e9", "parameters": {"city": ["a", 1, None, True]}},
}
CALL = {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "caf\u00e9"}}}]}
RESULT = {"role": "tool", "content": "21 \u00b0C"}
CONVERSATIONS = {
    "first": [FIRST],
    "turns": [FIRST, THOUGHT, SECOND],
    "system": [SYSTEM, FIRST, THOUGHT, SECOND],
    "answered": [FIRST, THOUGHT],
    "called": [SYSTEM, FIRST, CALL, RESULT],
}
MARKS = {"bos_token": "<s>", "eos_token": "</s>"}

Case = tuple[str, str, bool, bool, dict[str, object]]


def cases() -> dict[str, Case]:
    """Name: template, conversation, add_generation_prompt, with tools, other variables."""
    found: dict[str, Case] = {}
    for template in TEMPLATES:
        for conversation in CONVERSATIONS:
            if conversation != "called" and (template, conversation) != ("gemma", "system"):
                asks, date = conversation != "answered", {"date_string": "26 Jul 2024"}
                found[f"{template}-{conversation}"] = (template, conversation, asks, False, date)
    more: dict[str, object] = {"date_string": "1 Jan 2025", "enable_thinking": False}
    for template, conversation in (("llama3", "called"), ("qwen", "system")):
        found[f"{template}-tools"] = (template, conversation, True, True, more)
    return found


def write() -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    expected = {}
    for name, (template, conversation, asks, with_tools, more) in cases().items():
        texts, _ = render_jinja_template(
            [CONVERSATIONS[conversation]],
            tools=[TOOL] if with_tools else None,
            chat_template=TEMPLATES[template],
            add_generation_prompt=asks,
            **MARKS,
            **more,
        )
        expected[name] = texts[0]
    EXPECTED.write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()

"""Writes the golden file of chat templates: what transformers' `apply_chat_template` makes of conversations.

The templates are written here, each in the manner of a family: how it marks roles, trims, counts turns, refuses.

    python tests/interop/chat_templates.py crates/model/tests/chat_templates.json
"""

import json
import sys

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

TEMPLATES = {
    "chatml": """{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}""",
    "chatml with a system of its own": """{%- if messages[0].role != 'system' %}
    {{- '<|im_start|>system\nBe brief.<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- set text = message.content if message.content is string else '' %}
    {{- '<|im_start|>' ~ message.role ~ '\n' ~ text ~ '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
""",
    "headers": """{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
""",
    "brackets": """{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] + '\n\n' %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set system = '' %}
    {%- set turns = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in turns %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- '[INST] ' + (system if loop.first else '') + message['content'].strip() + ' [/INST]' }}
    {%- else %}
        {{- ' ' + message['content'] + eos_token }}
    {%- endif %}
{%- endfor %}
""",
    "turns by a macro": """{% macro turn(role, text) %}<start_of_turn>{{ role }}
{{ text | trim }}<end_of_turn>
{% endmacro %}
{{ bos_token }}{% for message in messages if message.role != 'system' %}
{% set role = 'model' if message.role == 'assistant' else message.role %}
{{ turn(role, message.content) }}{% endfor %}
{% if add_generation_prompt %}
<start_of_turn>model
{% endif %}
""",
    "namespaces, json and marks": """{%- set ns = namespace(count=0) -%}
{%- for message in messages -%}
    {%- if message.role == 'assistant' -%}
        {% generation %}{{ message.content }}{{ eos_token }}{% endgeneration %}
    {%- else -%}
        {%- set ns.count = ns.count + 1 -%}
        {{ '#' ~ ns.count ~ ' ' ~ message | tojson ~ '\n' }}
    {%- endif -%}
{%- endfor -%}
{{ messages | tojson(indent=2) }}
""",
    "methods of strings": """{% for message in messages %}
{% if message.content.startswith('A') or 'quote' in message.content %}
{{ message.role.upper() }}: {{ message.content.split(' ')[-1].replace('.', '!') }}
{% else %}
{{ message.role.title() }}: {{ message.content | upper }}
{% endif %}
{% if not loop.last %}
--
{% endif %}
{% endfor %}
""",
}

USER = {"role": "user", "content": "  A question, \"quoted\" <b>&</b> naïve?  "}
ANSWER = {"role": "assistant", "content": "An answer."}
CONVERSATIONS = [
    [USER],
    [USER, ANSWER, {"role": "user", "content": "And\nanother's?"}],
    [{"role": "system", "content": "Speak \u4e2d\u6587 \U0001f600."}, USER, ANSWER, USER],
    [USER, USER],
]


def main(path):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE()), bos_token="<s>", eos_token="</s>"
    )
    golden = []
    for name, template in TEMPLATES.items():
        cases = []
        for messages in CONVERSATIONS:
            try:
                text = tokenizer.apply_chat_template(
                    messages, chat_template=template, tokenize=False, add_generation_prompt=True
                )
                cases.append({"messages": messages, "text": text})
            except Exception as error:  # noqa: BLE001, a template may refuse
                cases.append({"messages": messages, "refused": str(error)})
        golden.append({"name": name, "template": template, "cases": cases})
    with open(path, "w", encoding="utf-8") as file:
        json.dump(golden, file, indent=1, ensure_ascii=False)
        file.write("\n")


main(sys.argv[1])

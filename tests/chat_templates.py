"""Chat templates that do what the published ones of today's bases do, for conversations of text.

Written for these tests: what they render equals what the published ones render, without tools.
"""

_MESSAGES = "{% for message in messages %}"
_TURNS = (
    "{% set system = messages[0].content if messages[0].role == 'system' else none %}"
    "{% set turns = messages if system is none else messages[1:] %}"
)

# Contents are trimmed; a system message always comes, with a date in it.
LLAMA_31 = (
    _TURNS + "{% if date_string is not defined %}{% set date_string = '26 Jul 2024' %}{% endif %}"
    "{{ bos_token }}<|start_header_id|>system<|end_header_id|>{{ '\n\n' }}"
    "{{ 'Cutting Knowledge Date: December 2023\nToday Date: ' + date_string + '\n\n' }}"
    "{{ (system or '') | trim }}<|eot_id|>"
    "{% for turn in turns %}<|start_header_id|>{{ turn.role }}<|end_header_id|>{{ '\n\n' }}"
    "{{ turn.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>{{ '\n\n' }}"
    "{% endif %}"
)
# The same, but the date is today's where the renderer knows it.
LLAMA_32 = LLAMA_31.replace(
    "{% set date_string = '26 Jul 2024' %}",
    "{% set date_string = '26 Jul 2024' if strftime_now is not defined"
    " else strftime_now('%d %b %Y') %}",
)
# A system message of its own where there is none; contents as they are.
QWEN_25 = (
    _TURNS + "<|im_start|>system{{ '\n' }}"
    "{{ 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.'"
    " if system is none else system }}<|im_end|>{{ '\n' }}"
    "{% for turn in turns %}<|im_start|>{{ turn.role + '\n' + turn.content }}<|im_end|>{{ '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{{ '\n' }}{% endif %}"
)
# The last answer gets a block of thinking, empty where it has none; earlier ones lose theirs.
QWEN_3 = (
    _MESSAGES + "<|im_start|>{{ message.role + '\n' }}"
    "{% set content = message.content %}{% set thought = '' %}"
    "{% if message.role == 'assistant' and '</think>' in content %}"
    "{% set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if message.role == 'assistant' and loop.last %}"
    "{{ '<think>\n' + thought + '\n</think>\n\n' + content.lstrip('\n') }}"
    "{% else %}{{ content }}{% endif %}<|im_end|>{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{{ '\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
# Mistral v0.2: marks are text, the system message is part of the first user message.
MISTRAL_V1 = (
    _TURNS + "{{ bos_token }}{% for turn in turns %}{% if turn.role == 'user' %}"
    "{{ '[INST] ' + (system + '\n\n' if loop.first and system is not none else '')"
    " + turn.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + turn.content + eos_token }}{% endif %}{% endfor %}"
)
# Mistral v0.3: the system message comes before the last user message, if nothing follows that.
MISTRAL_V3 = (
    _TURNS + "{{ bos_token }}{% for turn in turns %}{% if turn.role == 'user' %}"
    "{{ '[INST] ' + (system + '\n\n' if loop.last and system is not none else '')"
    " + turn.content + '[/INST]' }}"
    "{% else %}{{ ' ' + turn.content | trim + eos_token }}{% endif %}{% endfor %}"
)
# Mistral-Nemo: the same without spaces.
NEMO = MISTRAL_V3.replace("[INST] ", "[INST]").replace("' ' + turn.content | trim", "turn.content")
# Mistral Large of November 2024: a system message is a turn.
MISTRAL_V7 = (
    "{{ bos_token }}" + _MESSAGES + "{% if message.role == 'system' %}"
    "{{ '[SYSTEM_PROMPT] ' + message.content + '[/SYSTEM_PROMPT]' }}"
    "{% elif message.role == 'user' %}{{ '[INST] ' + message.content + '[/INST]' }}"
    "{% else %}{{ ' ' + message.content + eos_token }}{% endif %}{% endfor %}"
)

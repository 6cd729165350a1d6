"""The Jinja chat template of a template whose marks are text.

transformers renders a conversation to one text and tokenises it, while training encodes each
prompt and each answer by itself, with SentencePiece's dummy prefix. Both give the same ids where
the chat template writes one space before an answer, which becomes the answer's dummy prefix,
and where no piece of the vocabulary reaches across that space.
"""


def text_chat_template(
    user_marks: tuple[str, str],
    first_marks: tuple[str, str, str],
    answer_end: str,
    answer_space: str,
) -> str:
    """Return a chat template for an optional system message and alternating turns.

    Args:
        user_marks: what is written before and after a user's message.
        first_marks: what is written before, between and after a system message and the first
            user's message.
        answer_end: what is written behind an answer, before the end-of-sequence token.
        answer_space: what is written before an answer: a space for a dummy prefix, or nothing.
    """
    before_user, after_user = map(literal, user_marks)
    before_system, between, after_first = map(literal, first_marks)
    user = f"{before_user} + turn['content'] + {after_user}"
    first = f"{before_system} + system + {between} + turn['content'] + {after_first}"
    answer = f"{literal(answer_space)} + turn['content'] + {literal(answer_end)} + eos_token"
    return (
        "{{ bos_token }}"
        "{% if messages[0]['role'] == 'system' %}"
        "{% set system = messages[0]['content'] %}{% set turns = messages[1:] %}"
        "{% else %}{% set turns = messages %}{% endif %}"
        "{% for turn in turns %}"
        "{% if turn['role'] != ['user', 'assistant'][loop.index0 % 2] %}"
        "{{ raise_exception('after an optional system message, user and assistant must alternate')"
        " }}{% endif %}"
        "{% if turn['role'] == 'assistant' %}{{ " + answer + " }}"
        "{% elif loop.first and system is defined %}{{ " + first + " }}"
        "{% else %}{{ " + user + " }}{% endif %}"
        "{% endfor %}"
    )


def literal(text: str) -> str:
    """Return a text as a Jinja string, in ASCII.

    Jinja reads the escapes of Python; a raw line break in its source would be normalised.
    """
    return ascii(text)

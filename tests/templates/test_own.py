"""A base's own chat template gives transformers' and mistral-common's ids; answers are masked."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
from mistral_common.protocol.instruct.request import InstructRequest
from mistral_common.tokens.tokenizers import instruct
from mistral_common.tokens.tokenizers import sentencepiece as theirs
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from transformers import AutoTokenizer

from megatron_in2.errors import InputError
from megatron_in2.records import ControlPart, JoinedPart, Part, SamplePart
from megatron_in2.templates.base import Attempt, ConversationError, Turn
from megatron_in2.templates.film import FILM
from megatron_in2.templates.fit import require_fit
from megatron_in2.templates.ids import end_id, part_ids
from megatron_in2.templates.load import load_template, template_of_values
from megatron_in2.templates.own import OwnTemplate, text_of_parts
from megatron_in2.templates.rendering import DAY_TOLD
from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.tokenizers.load import load_tokenizer
from tests import chat_templates
from tests.bases import TEKKEN, VERSIONS, write_mistral, write_own_template

Conversation = tuple[str | None, list[tuple[str, str]]]

CONVERSATIONS: list[Conversation] = [
    (None, [("What is this?", "A  test.")]),
    ("Be brief.", [("One\n\ntwo?", "A1. 日本 🙂")]),
    (None, [("Q", "A"), (" second? ", "Yes, it is."), ("third\n", "/No")]),
    ("Be kind.", [("Q", "A"), ("And then?", "def f(x):\n\treturn x")]),
]
IDS = ["one turn", "system", "three turns", "system, two turns"]
TEMPLATES = {
    "llama 3.1": ("llama3", chat_templates.LLAMA_31),
    "llama 3.2": ("llama3", chat_templates.LLAMA_32),
    "qwen 2.5": ("qwen", chat_templates.QWEN_25),
    "qwen 3": ("qwen", chat_templates.QWEN_3),
}
Base = tuple[Tokenizer, OwnTemplate, Path]


def loaded(folder: Path) -> Base:
    tokenizer = load_tokenizer(str(folder))
    template = load_template("base", tokenizer)
    assert isinstance(template, OwnTemplate)
    require_fit(template, tokenizer)
    return tokenizer, template, folder


def parts_of(template: OwnTemplate, conversation: Conversation) -> tuple[SamplePart, ...]:
    system, pairs = conversation
    return template.parts(system, [Turn(user, answer) for user, answer in pairs])


def messages_of(conversation: Conversation) -> list[dict[str, str]]:
    system, pairs = conversation
    messages = [] if system is None else [{"role": "system", "content": system}]
    for user, answer in pairs:
        messages.append({"role": "user", "content": user})
        messages.append({"role": "assistant", "content": answer})
    return messages


@pytest.fixture(scope="module", params=list(TEMPLATES))
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    name, source = TEMPLATES[request.param]
    folder = tmp_path_factory.mktemp("own") / request.param
    return loaded(write_own_template(request.getfixturevalue(name), folder, source))


@pytest.fixture(scope="module")
def reference(base: Base) -> Any:
    return AutoTokenizer.from_pretrained(base[2])


def reference_ids(reference: Any, conversation: Conversation) -> list[int]:
    messages = messages_of(conversation)
    return list(reference.apply_chat_template(messages, return_dict=False, date_string=DAY_TOLD))


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=IDS)
def test_ids_are_those_of_transformers(
    base: Base, reference: Any, conversation: Conversation
) -> None:
    """But for what a template writes behind the last answer's end: Qwen's newline."""
    tokenizer, template, _ = base
    ids = part_ids(parts_of(template, conversation), tokenizer)
    expected = reference_ids(reference, conversation)
    assert expected[: len(ids)] == ids
    assert tokenizer.decode(expected[len(ids) :]).strip() == ""
    assert ids[-1] == end_id(template, tokenizer)
    assert tokenizer.piece(ids[-1]) in ("<|eot_id|>", "<|im_end|>")


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(
        st.text(st.characters(exclude_categories=("Cs", "Cn")), max_size=20), min_size=2, max_size=5
    )
)
@example(texts=[" \n a \t", "\n\nb"])
@example(texts=["{{ x }} {% if %}", "'\"\\"])
def test_any_text_is_written_as_transformers_writes_it(
    base: Base, reference: Any, texts: list[str]
) -> None:
    texts = [text if text.strip() else f"{text}x" for text in texts]
    conversation = None, list(zip(texts[::2], texts[1::2], strict=False))
    try:
        parts = parts_of(base[1], conversation)
    except ConversationError:
        # Qwen 3 cuts newlines off the front of an answer; any other change would be an error.
        raise AssertionError(texts) from None
    messages = messages_of(conversation)
    text = reference.apply_chat_template(messages, tokenize=False, date_string=DAY_TOLD)
    assert text.removesuffix("\n") == text_of_parts(parts)


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=IDS)
def test_answers_and_their_ends_are_trained_on(base: Base, conversation: Conversation) -> None:
    _, template, _ = base
    trained = [part for part in parts_of(template, conversation) if getattr(part, "learn", False)]
    answers, ends = trained[::2], trained[1::2]
    assert [part.text for part in answers if isinstance(part, Part)] == [
        answer for _, answer in conversation[1]
    ]
    assert ends == [ControlPart(template.end_token, learn=True)] * len(answers)


def test_a_users_text_never_gives_a_control_id(base: Base, reference: Any) -> None:
    tokenizer, template, _ = base
    names = " ".join(tokenizer.control_ids)
    control = set(tokenizer.control_ids.values())

    def count(ids: list[int]) -> int:
        return sum(index in control for index in ids)

    clean: Conversation = ("s", [("u", "a"), ("u", "a")])
    hostile: Conversation = (f"s {names}", [(names, f"a{names}"), (f"{names}u", names)])
    expected = count(part_ids(parts_of(template, clean), tokenizer))
    assert count(part_ids(parts_of(template, hostile), tokenizer)) == expected > 4
    # The negative control: transformers takes them for control tokens.
    assert count(reference_ids(reference, hostile)) > expected


def test_the_prompt_is_what_generation_begins_with(base: Base, reference: Any) -> None:
    tokenizer, template, _ = base
    *prompt, _, _ = template.parts(None, [Turn("Why?", "Because.")])
    asked = [{"role": "user", "content": "Why?"}]
    options = {"add_generation_prompt": True, "enable_thinking": False, "date_string": DAY_TOLD}
    expected = reference.apply_chat_template(asked, return_dict=False, **options)
    assert part_ids(prompt, tokenizer) == list(expected)
    text = template.prompt_text("Why?")
    assert text.endswith(reference.apply_chat_template(asked, tokenize=False, **options)[-30:])
    start, end = template.user_span(text)
    assert text[start:end] == "Why?"
    assert "<|begin_of_text|>" not in text


# Mistral


@pytest.fixture(scope="module", params=[*VERSIONS, "nemo"])
def mistral(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A directory with a real vocabulary, and mistral-common's encoder of that version."""
    name = request.param
    folder = tmp_path_factory.mktemp("mistral") / name
    if name == "nemo":
        source = chat_templates.NEMO
        folder = write_own_template(request.getfixturevalue("tekken"), folder, source)
        return name, loaded(folder), instruct.InstructTokenizerV3(Tekkenizer.from_file(TEKKEN))
    file, source = VERSIONS[name]
    encoder = getattr(instruct, f"InstructTokenizer{name.upper()}")
    folder = write_mistral(folder, file, source)
    return name, loaded(folder), encoder(theirs.SentencePieceTokenizer(file))


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=IDS)
def test_ids_are_those_of_mistral_common(mistral: Any, conversation: Conversation) -> None:
    name, (tokenizer, template, _), encoder = mistral
    system, pairs = conversation
    messages: list[Any] = []
    for user, answer in pairs:
        messages += [UserMessage(content=user), AssistantMessage(content=answer)]
    if name == "v7" and system is not None:
        request = InstructRequest(messages=[SystemMessage(content=system), *messages])
    else:
        request = InstructRequest(messages=messages, system_prompt=system)
    ids = part_ids(parts_of(template, conversation), tokenizer)
    assert ids == encoder.encode_instruct(request).tokens
    if name != "v1":
        assert ids[1] in (3, tokenizer.control_ids.get("[SYSTEM_PROMPT]"))  # [INST] is no text
        with pytest.raises(InputError, match="is a control token there and would be trained on"):
            require_fit(FILM, tokenizer)


def test_films_wording_in_v02s_own_template_is_films_template(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    file, source = VERSIONS["v1"]
    ours, template, _ = loaded(write_mistral(tmp_path / "v0.2", file, source))
    assert ours.sha256 == tokenizer.sha256
    for context in (None, "Bob sat.\nAnn ran.\n"):
        turns = [Turn(template.wording.message("Who ran?", context), "Ann.")] * 2
        expected = part_ids(FILM.parts(None, turns), tokenizer)
        assert part_ids(template.parts(None, turns), ours) == expected


# What templates do to contents


@pytest.fixture
def own(llama3: Path, tmp_path: Path) -> Callable[[str], Base]:
    return lambda source: loaded(write_own_template(llama3, tmp_path / "base", source))


def test_qwen3s_empty_thinking_belongs_to_the_prompt(qwen: Path, tmp_path: Path) -> None:
    tokenizer, template, _ = loaded(
        write_own_template(qwen, tmp_path / "qwen3", chat_templates.QWEN_3)
    )
    parts = template.parts(None, [Turn("Q", "first"), Turn("Q", "last")])
    texts = [part.text for part in parts if isinstance(part, Part)]
    assert [text for text in texts if "think" in text] == ["assistant\n<think>\n\n</think>\n\n"]
    assert texts[-1] == "last"
    think = tokenizer.encode("<think>")
    assert len(think) == 1
    assert part_ids(parts, tokenizer).count(think[0]) == 1
    with pytest.raises(ConversationError, match="rewrites a message"):
        template.parts(None, [Turn("Q", "<think>\nHm.\n</think>\n\nA")])


def test_the_date_is_the_same_every_day(own: Callable[[str], Base]) -> None:
    today = "{{ bos_token + strftime_now('%Y-%m-%d') }}" + chat_templates.QWEN_25.replace(
        "<|im_start|>", "<|start_header_id|>"
    ).replace("<|im_end|>", "<|eot_id|>")
    assert "Today Date: 26 Jul 2024\n" in own(chat_templates.LLAMA_32)[1].prompt_text("x")
    assert own(today)[1].prompt_text("x").startswith("2024-07-26")


@pytest.mark.parametrize(
    ("change", "system", "complaint"),
    [
        (("(system + '\n\n' if", "('' if"), "s", "drops a message"),
        (("turn.content | trim", "(turn.content | upper)"), None, "rewrites a message"),
        (("turn.content | trim", "turn.content[:1]"), None, "rewrites a message"),
        (("turn.content + '[/INST]'", "turn.content * 2 + '[/INST]'"), None, "repeats a message"),
        (("{{ bos_token }}", "{{ bos_token + raise_exception('no  chat') }}"), None, "no chat"),
        (("eos_token", "'\nEND'"), None, "which is no control token: nothing would teach"),
    ],
)
def test_contents_that_a_template_does_not_keep(
    tmp_path: Path, change: tuple[str, str], system: str | None, complaint: str
) -> None:
    source = chat_templates.MISTRAL_V3
    assert change[0] in source
    file, _ = VERSIONS["v3"]
    folder = write_mistral(tmp_path / "v0.3", file, source.replace(*change))
    with pytest.raises(InputError, match=complaint):
        loaded(folder)[1].parts(system, [Turn("user", "an answer")])


def test_templates_of_another_tokenizer(
    own: Callable[[str], Base], qwen: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"does not begin with <\|begin_of_text\|>, which"):
        own(chat_templates.LLAMA_31.replace("{{ bos_token }}", ""))
    _, template, _ = own(chat_templates.LLAMA_31)
    with pytest.raises(InputError, match=r"control token <\|begin_of_text\|>, which the tokenizer"):
        require_fit(template, load_tokenizer(str(qwen)))


# Wordings, contexts, attempts


@pytest.mark.parametrize("wording", ["film", "plain"])
def test_a_context_stays_out_of_the_template(
    own: Callable[[str], Base], wording: Any, tmp_path: Path
) -> None:
    tokenizer, *_ = own(chat_templates.LLAMA_31)
    template = load_template("base", tokenizer, wording)
    before, after = template.wording.around_context("Who ran? \n")
    (joined,) = [
        part
        for part in template.parts(None, [Turn(JoinedPart(before, tmp_path, (1, 2), after), "A")])
        if isinstance(part, JoinedPart)
    ]
    assert joined.segments == (1, 2)
    whole = template.wording.message("Who ran?", "C")
    assert joined.before + "C" + joined.after == f"\n\n{whole}"
    assert joined.before.endswith("Context:\n")
    assert joined.follows == "control"
    assert (wording == "film") == whole.startswith("Below is a context")


def test_wordings_are_for_own_templates(tokenizer: Tokenizer) -> None:
    assert load_template("base", tokenizer) is FILM  # nothing beside it
    with pytest.raises(InputError, match="--wording plain: template film has a wording of its own"):
        load_template("film", tokenizer, "plain")
    with pytest.raises(InputError, match="wording"):
        load_template("base", tokenizer, "odd")  # type: ignore[arg-type]


def test_an_attempt_is_not_trained_on(base: Base) -> None:
    _, template, _ = base
    parts = template.parts(None, [Turn("Q", "No: 3.", attempts=(Attempt("2."),))])
    *_, attempt, answer, end = parts
    assert isinstance(attempt, Part)
    assert attempt.text.endswith("2.")
    assert (answer, attempt.learn) == (Part(" No: 3.", learn=True, follows="text"), False)
    assert end == ControlPart(template.end_token, learn=True)


def test_corrections_in_a_row_take_turns(base: Base) -> None:
    _, template, _ = base
    attempts = (Attempt("1.", "Wrong."), Attempt("2.", "Wrong too."))
    parts = template.parts(None, [Turn("Q", "3.", attempts=attempts)])
    *_, first, said, second, answer, end = parts
    assert isinstance(first, Part)
    assert first.text.endswith("1.")
    assert not first.learn
    assert said == Part(" Wrong.", learn=True, follows="text")
    assert second == Part(" 2.", learn=False, follows="text")
    assert answer == Part(" Wrong too. 3.", learn=True, follows="text")
    assert end == ControlPart(template.end_token, learn=True)


def test_a_template_comes_back_from_its_values(base: Base) -> None:
    _, template, folder = base
    assert template_of_values(template.values()) == template
    assert template_of_values(template.values()).sha256 == template.sha256
    assert pickle.loads(pickle.dumps(template)) == template
    assert load_template(str(folder)) == template
    assert template.sha256 != load_template(str(folder), None, "plain").sha256

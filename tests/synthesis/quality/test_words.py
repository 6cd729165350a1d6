"""Checks that count words hold in Chinese, other scripts and code; English stays as it was."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_in2.records import Document
from megatron_in2.synthesis.corpus.decontamination import EvaluationTexts
from megatron_in2.synthesis.corpus.near_duplicates import without_near_duplicates
from megatron_in2.synthesis.corpus.segments import split_into_segments
from megatron_in2.synthesis.quality.code_units import code_units
from megatron_in2.synthesis.quality.words import as_words, joined, words
from megatron_in2.synthesis.questions.filters import copies_more, speaks_of_context
from megatron_in2.synthesis.questions.writer import Draft
from megatron_in2.synthesis.rejects import Rejects
from megatron_in2.tokenizers.base import Tokenizer

CHINESE = "一九八七年三月，这座城市的居民在河边修建了第一座石桥，连接了两岸的集市和码头。"
OTHER = "今天的天气很好，孩子们在公园里放风筝，老人们坐在长椅上聊天，谁也没有注意到时间。"
THAI = "แม่น้ำเจ้าพระยาไหลผ่านกรุงเทพมหานครลงสู่อ่าวไทยในจังหวัดสมุทรปราการ"
HINDI = "गंगा नदी हिमालय से निकलकर बंगाल की खाड़ी में गिरती है और बहुत लंबी है"
ENGLISH = "In March 1987 the people of the town built the first stone bridge over the river."


# Not the Turkish capital: in lower case it is an i with a mark, which belongs to its letter here.
LATIN = st.characters(
    categories=("Lu", "Ll", "Nd", "Po", "Zs"), max_codepoint=0x24F, exclude_characters="İ"
)


@given(st.text(LATIN))
def test_words_of_latin_scripts_are_runs_of_letters_and_digits(text: str) -> None:
    assert words(text) == re.findall(r"[^\W_]+", text.lower())


def test_words_of_other_scripts() -> None:
    assert words("GPT模型2024年") == ["gpt", "模", "型", "2024", "年"]
    assert words("हिन्दी भाषा") == ["हिन्दी", "भाषा"]  # signs of vowels belong to their letters
    assert len(words(HINDI)) == len(HINDI.split())
    assert len(words(THAI)) > 30
    assert as_words(10, words(CHINESE)) == 16
    assert as_words(10, words(ENGLISH)) == 10
    assert joined(["gpt", "模", "型", "is", "new"]) == "gpt 模型 is new"


@pytest.mark.parametrize("sentence", [CHINESE, THAI, HINDI, ENGLISH])
def test_a_repeated_sentence_is_contamination_in_every_language(sentence: str) -> None:
    evaluation = EvaluationTexts([f"{OTHER}\n{sentence}"], 10)
    assert len(evaluation)
    shared = evaluation.overlap(f"Zuvor etwas anderes. {sentence} Danach auch.")
    assert shared is not None
    assert " ".join(words(shared)) in " ".join(words(sentence))
    changed = "".join(c if i % 12 else "X" for i, c in enumerate(sentence))
    assert evaluation.overlap(changed) is None


def test_short_runs_of_characters_are_no_contamination() -> None:
    evaluation = EvaluationTexts([CHINESE], 10)
    run = "".join(words(CHINESE))
    assert evaluation.overlap(run[3:18] + "。" + OTHER) is None  # 15 characters
    assert evaluation.overlap(run[3:19] + "。" + OTHER) == run[3:19]


SOLUTION = '''
def count_primes(limit):
    """Return how many primes lie below a limit."""
    sieve = [True] * limit
    for number in range(2, limit):
        if sieve[number]:
            for multiple in range(number * number, limit, number):
                sieve[multiple] = False
    return sum(sieve[2:])
'''
IMPORTS = (
    "import os\nimport re\nimport sys\nimport json\nfrom typing import Any, List\nimport numpy\n"
)


def test_code_is_compared_without_layout_comments_and_imports() -> None:
    evaluation = EvaluationTexts([IMPORTS + SOLUTION], 10, "code")
    indented = "\n".join("        " + line for line in SOLUTION.splitlines())
    commented = SOLUTION.replace("    sieve = ", "    # start\n    sieve =\\\n    ")
    for text in (SOLUTION, indented, commented):
        assert evaluation.overlap(text) is not None
    other = IMPORTS + "def area(shape):\n    return sum(side.length for side in shape.sides)\n"
    assert evaluation.overlap(other) is None
    renamed = re.sub(r"\b(sieve|number|multiple)\b", r"\1_2", SOLUTION)
    assert evaluation.overlap(renamed) is None
    # As prose, the imports alone would be an overlap: what code is compared as units for.
    assert EvaluationTexts([IMPORTS + SOLUTION], 10).overlap(other) is not None
    assert code_units("x = f(y)  # no") == ["x", "=", "f", "(", "y", ")", "#", "no"]


def test_copied_chinese_is_found() -> None:
    answer = f"他们说：{CHINESE}"
    assert copies_more(answer, (CHINESE,), 15)
    assert not copies_more(OTHER, (CHINESE,), 5)
    assert not copies_more("这座城市的居民修桥。", (CHINESE,), 5)


@pytest.mark.parametrize(
    "phrase",
    ["根据上述文本，谁修建了石桥？", "文中提到的城市在哪里？", "Was steht laut dem Text am Ufer?",
     "Selon le texte, qui a gagné ?", "Según el texto, ¿quién ganó?"],
)  # fmt: skip
def test_context_phrases_of_other_languages(phrase: str) -> None:
    assert speaks_of_context(Draft(phrase, "x"))


@pytest.mark.parametrize(
    "phrase", ["谁在一九八七年修建了第一座石桥？", "Wer baute die Brücke?", "Qui a gagné en 1987 ?"]
)
def test_ordinary_questions_of_other_languages_pass(phrase: str) -> None:
    assert not speaks_of_context(Draft(phrase, "x"))


def test_near_duplicates_in_chinese() -> None:
    text = (
        CHINESE + OTHER + "后来，市场扩大到了整条街道，每逢节日都会举行盛大的庆祝活动。" + CHINESE
    )
    documents = [
        Document("a", text),
        Document("b", text.replace("孩子们", "学生们")),
        Document("c", OTHER + "这里没有任何相同的内容，只是另外一篇文章。"),
    ]
    kept = without_near_duplicates(documents, 0.6, Rejects(io.StringIO()))
    assert [each.id for each in kept] == ["a", "c"]


def test_code_keeps_its_indentation_where_it_is_cut(tokenizer: Tokenizer) -> None:
    code = "\n".join(SOLUTION.strip() for _ in range(8))
    parts = split_into_segments(Document("x", code), tokenizer, 16, 64)
    assert len(parts) > 8
    assert "\n".join(text for text, _ in parts) == code
    compile(code, "code", "exec")


def test_chinese_is_cut_at_sentences(tokenizer: Tokenizer) -> None:
    text = (CHINESE + OTHER) * 12
    parts = [part for part, _ in split_into_segments(Document("x", text), tokenizer, 64, 256)]
    assert len(parts) > 4
    assert "".join(parts) == text
    assert all(part.endswith("。") for part in parts)

"""GSM8K and MATH as FILM's own scripts score them, where they differ from the field's practice.

The rules are facts about github.com/microsoft/FILM (``short_tasks/utils.py``); with them its
published predictions give its published figures. The other benchmarks need no second rule.
"""

import ast
import operator
import re
from collections.abc import Callable

_NEXT_QUESTION = re.compile(r"\n\n(?:Q|Question): ")
_ANY_QUESTION = re.compile(r"Q:|Question:")
_SAID = "The answer is "  # case counts: "the answer is 4" is no answer under this rule
_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def final_number_matches(prediction: str, answer: str) -> float:
    """1 where the first word behind the last "The answer is" is the same number in both texts.

    A word that is no number counts as 0, and so does a text without these words. The answer may
    also be a bare number, or end with it behind ``####`` as in GSM8K's own files.
    """
    number = answer.rpartition("####")[2].strip()
    wanted = _final_number(answer if _SAID in answer else f"{_SAID}{number}")
    return float(_final_number(prediction) == wanted)


def _final_number(text: str) -> float:
    text = _NEXT_QUESTION.split(text)[0].replace("The answer is: ", _SAID).rstrip(".\n")
    if _SAID not in text:
        return 0.0
    # Once the words are there, each repetition of them counts, in any case.
    word = text.lower().split(_SAID.lower())[-1].split(" ")[0]
    word = word.replace(",", "").split("=")[-1].split(">>")[-1]
    word = re.sub(r'[a-z$"£€]', "", word).split(":")[0].strip()
    return _value(word.removesuffix("%").removesuffix("/").rstrip("."))


def _value(text: str) -> float:
    """Return the value of a number, or of arithmetic such as ``3*4``; 0 of anything else."""
    try:
        if not set(text) & set("+-*/"):
            return float(text)
        return _evaluate(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError, RecursionError):
        return 0.0


def _evaluate(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as value):
            return float(value)
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_evaluate(inner)
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATORS:
            return _OPERATORS[type(sign)](_evaluate(left), _evaluate(right))
    raise ValueError("no arithmetic of numbers")


def formula_matches(prediction: str, answer: str) -> float:
    r"""1 where final answers are equal texts by the normalisation of the MATH benchmark.

    The final answer is what follows the last "The answer is", else the last ``\boxed``. Commas in
    the prediction's do not count where the answer has none. An answer with neither is
    taken whole.
    """
    given = answer if _SAID in answer or "boxed" in answer else f"{_SAID}{answer}"
    wanted, found = _final_formula(given), _final_formula(prediction)
    if "," not in wanted:
        found = found.replace(",", "")
    return float(found == wanted)


def _final_formula(text: str) -> str:
    from lm_eval.tasks.hendrycks_math.utils import (  # type: ignore[import-untyped]
        last_boxed_only_string,
        remove_boxed,
        strip_string,
    )

    text, *questions = _ANY_QUESTION.split(text)
    text = (text.strip() if questions else text).replace("The answer is: ", _SAID)
    result = text
    if _SAID in text:
        result = text.split(_SAID)[-1].strip().removesuffix(".").replace("$", "").strip()
    try:
        if _SAID not in text or "boxed{" in result:
            result = remove_boxed(last_boxed_only_string(result) or "\\boxed{}")
        return str(strip_string(result)) if result else ""
    except ValueError:  # it takes "a/b" for a fraction of two integers
        return result.replace(" ", "")
    except (AssertionError, IndexError):  # a formula that it cannot read
        return ""

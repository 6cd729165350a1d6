"""Foreign text made safe to print: it cannot move the cursor, ring, colour or reverse a line."""

import unicodedata

LINES = "\n\t"
_JOINERS = "\u200c\u200d"  # parts of Persian and Indic words and of emoji


def escaped(text: str, kept: str = "") -> str:
    r"""Replace control and format characters by their escapes, such as ``\x1b`` or ``\u202e``.

    Those are Unicode's categories Cc and Cf, unassigned and private ones, lone surrogates, and
    the line separators.

    Args:
        text: any text.
        kept: characters that stay as they are, such as those of :data:`LINES`.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character in kept or _is_harmless(character) else _escape(character)
        for character in text
    )


def _is_harmless(character: str) -> bool:
    is_space = unicodedata.category(character) == "Zs"
    return character.isprintable() or is_space or character in _JOINERS


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")

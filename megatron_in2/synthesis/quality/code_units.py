"""Source code as a row of units, for comparing it with code of evaluation sets.

Names, keywords, numbers and every other character count; layout, comments and the lines that all
files of a language share (imports, includes, package names) do not.
"""

import re

UNITS_PER_WORD = 3  # a line of code has more units than one of prose has words: x = f(y) has 6

_UNIT = re.compile(r"[^\W\d]\w*|\d+|[^\w\s]")
_COMMENT = re.compile(r"\s*(#|//|--|;;|\*|/\*|<!--)")
_SHARED_LINE = re.compile(
    r"\s*(import\b|from\s+[\w.]+\s+import\b|#\s*include\b|using\s|package\s|require\b|use\s)"
)


def code_units(text: str) -> list[str]:
    """Return the units of source code, case kept."""
    kept = (
        line
        for line in text.splitlines()
        if not _COMMENT.match(line) and not _SHARED_LINE.match(line)
    )
    return _UNIT.findall("\n".join(kept))

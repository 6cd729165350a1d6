"""A dictionary of cuttings that are already encoded: real text repeats its words."""

from collections.abc import Callable

MAX_CHARACTERS = 8_000_000  # a dictionary holds as keys, 150 MB at worst; then it starts anew


class Dictionary:
    """Looks the cuttings of texts up, and encodes those that are new in one go.

    Args:
        encode_new: returns the ids of each of several different cuttings, as bytes.
        max_characters: bound of the keys; the dictionary is emptied when it is reached.
    """

    def __init__(
        self, encode_new: Callable[[list[str]], list[bytes]], max_characters: int = MAX_CHARACTERS
    ) -> None:
        self._encode_new = encode_new
        self._max_characters = max_characters
        self._known: dict[str, bytes] = {}
        self._characters = 0

    def encode(self, cuttings: list[str]) -> bytes:
        """Return the ids of cuttings, one after the other."""
        try:  # most texts have no new cutting, and looking for one takes as long as the rest
            return b"".join(map(self._known.__getitem__, cuttings))
        except KeyError:
            self.add(cuttings)
        return b"".join(map(self._known.__getitem__, cuttings))

    def add(self, cuttings: list[str]) -> None:
        """Encode what is new among cuttings, in one go."""
        missing = set(cuttings).difference(self._known)
        if not missing:
            return
        if self._characters + sum(map(len, missing)) > self._max_characters:
            self._known.clear()
            self._characters = 0
            missing = set(cuttings)
        self._characters += sum(map(len, missing))
        new = sorted(missing)
        self._known.update(zip(new, self._encode_new(new), strict=True))

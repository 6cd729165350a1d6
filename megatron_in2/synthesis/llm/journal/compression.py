"""Short texts that resemble each other, such as filled-in prompts, take a third of their size.

A packed text is one byte, the number of its dictionary, and zlib data. Dictionaries are kept by
the journal, so that what one run packs another one reads, with other prompts or another version.
"""

import zlib

MAX_DICTIONARY_BYTES = 32_000  # zlib looks back no further
LEVEL = 6


class Packer:
    """Packs texts with one dictionary; unpacks those of every dictionary that it knows.

    Args:
        dictionaries: by number, 0 to 255; each holds passages that texts are likely to repeat.
        current: the number of the one to pack with.
    """

    def __init__(self, dictionaries: dict[int, bytes], current: int) -> None:
        self._dictionaries = dictionaries
        self._current = current

    def pack(self, text: bytes) -> bytes:
        """Return the packed text."""
        dictionary = self._dictionaries[self._current]
        packer = zlib.compressobj(LEVEL, wbits=-15, zdict=dictionary)
        return bytes([self._current]) + packer.compress(text) + packer.flush()

    def unpack(self, packed: bytes) -> bytes:
        """Return the text.

        Raises:
            ValueError: damaged, or packed with an unknown dictionary.
        """
        if not packed or packed[0] not in self._dictionaries:
            raise ValueError("packed with an unknown dictionary")
        unpacker = zlib.decompressobj(wbits=-15, zdict=self._dictionaries[packed[0]])
        try:
            return unpacker.decompress(packed[1:]) + unpacker.flush()
        except zlib.error as error:
            raise ValueError(str(error)) from error

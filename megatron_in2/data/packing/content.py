"""What an input file holds, as a fast hash: work begun on other content is not continued."""

import os
from pathlib import Path
from typing import Any

import xxhash

READ_BYTES = 1 << 22
WHOLE_BYTES = 4 << 30  # larger files are sampled
SAMPLES = 4096
SAMPLE_BYTES = 1 << 18  # together 1 GiB


def content_of(path: Path) -> dict[str, Any]:
    """Return a file's size and XXH3 hash (128 bits).

    A file of more than :data:`WHOLE_BYTES` is hashed at :data:`SAMPLES` places only, which
    ``sampled`` says; the time of its last change then counts too.

    Raises:
        OSError: the file cannot be read.
    """
    digest = xxhash.xxh3_128()
    with open(path, "rb") as stream:
        state = os.fstat(stream.fileno())
        size = state.st_size
        if size <= WHOLE_BYTES:
            while block := stream.read(READ_BYTES):
                digest.update(block)
            return {"bytes": size, "xxh3": digest.hexdigest()}
        for index in range(SAMPLES):
            stream.seek((size - SAMPLE_BYTES) * index // (SAMPLES - 1))
            digest.update(stream.read(SAMPLE_BYTES))
    return {
        "bytes": size,
        "xxh3": digest.hexdigest(),
        "sampled": f"{SAMPLES} x {SAMPLE_BYTES} bytes",
        "changed_ns": state.st_mtime_ns,
    }

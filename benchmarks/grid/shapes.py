"""The shapes: the standard grid, the quick one, and those of real models by name."""

from __future__ import annotations

import re
from typing import NamedTuple


class Shape(NamedTuple):
    """Rows, and the number of elements that is normalized over."""

    rows: int
    cols: int


STANDARD = tuple(
    Shape(*shape)
    for shape in (
        (1, 64),
        (1, 768),
        (1, 4096),
        (8, 768),
        (32, 768),
        (128, 768),
        (512, 1024),
        (4096, 768),
        (2048, 4096),
        (16384, 4096),
        (32768, 64),
        (131072, 16),
        (65536, 100),
        (64, 65536),
        (4, 1048576),
        # Of models and data, most of them off powers of two.
        (50, 768),
        (197, 768),
        (77, 512),
        (577, 1024),
        (1500, 384),
        (257, 1280),
        (784, 192),
        (3136, 96),
        (300, 300),
        (64, 2048),
        (1000, 10),
        (10000, 50),
    )
)

# A call, the caches, memory, short rows, long rows.
QUICK = (Shape(1, 768), Shape(128, 768), Shape(4096, 768), Shape(32768, 64), Shape(64, 65536))

# So small that every contender can be run without being timed.
TINY = (Shape(1, 768), Shape(7, 33))

# Name: the usual number of tokens in a sequence, and the width that is normalized over.
MODELS = {
    "bert-base": Shape(512, 768),
    "bert-large": Shape(512, 1024),
    "gpt2": Shape(1024, 768),
    "gpt2-medium": Shape(1024, 1024),
    "gpt2-large": Shape(1024, 1280),
    "gpt2-xl": Shape(1024, 1600),
    "vit-base": Shape(197, 768),
    "vit-large": Shape(197, 1024),
    "vit-huge": Shape(257, 1280),
    "llama-7b": Shape(2048, 4096),
    "llama-13b": Shape(2048, 5120),
    "llama-70b": Shape(2048, 8192),
    "whisper-tiny": Shape(1500, 384),
    "whisper-base": Shape(1500, 512),
    "whisper-small": Shape(1500, 768),
    "whisper-medium": Shape(1500, 1024),
    "whisper-large": Shape(1500, 1280),
}

# Past this an array does not fit in memory anywhere; it is a slip of the fingers.
LARGEST = 2**33


def parse_shape(text: str) -> Shape:
    """`128x768`, `bert-base`, `bert-base@128` (tokens) or `bert-base@8x128` (sequences of tokens).

    Raises
    ------
    ValueError
        If text is none of these.
    """
    if match := re.fullmatch(r"(\d+)x(\d+)", text):
        shape = Shape(int(match[1]), int(match[2]))
    elif match := re.fullmatch(r"([a-z0-9-]+)(?:@(?:(\d+)x)?(\d+))?", text):
        if match[1] not in MODELS:
            raise ValueError(f"must be ROWSxCOLS, or one of {', '.join(MODELS)} with or without @TOKENS, got {text!r}")
        model = MODELS[match[1]]
        shape = Shape(int(match[2] or 1) * int(match[3] or model.rows), model.cols)
    else:
        raise ValueError(f"must be ROWSxCOLS, NAME, NAME@TOKENS or NAME@SEQUENCESxTOKENS, got {text!r}")
    if not 1 <= shape.rows * shape.cols <= LARGEST:
        raise ValueError(f"must have 1 to {LARGEST} elements, got {text!r}")
    return shape

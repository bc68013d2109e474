"""Seeded changes of bytes and of JSON documents, for the tests with mutated files."""

from __future__ import annotations

import copy
import json
import random
import struct
from typing import Any

NUMBERS = (
    0,
    1,
    -1,
    2**7,
    2**8,
    2**16,
    2**24,
    2**31,
    2**32,
    2**53,
    2**63,
    2**64,
    10**30,
    0.5,
    -1e300,
)
VALUES = (
    None,
    True,
    "",
    "x",
    "../x",
    "a" * 5000,
    [],
    {},
    [[]],
    {"a": 1},
    "NaN",
    "\ud800",
    *NUMBERS,
)


def mutated_bytes(content: bytes, rng: random.Random) -> bytes:
    """Flip, cut, repeat, insert or overwrite a few bytes."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(data) + 1) if data else 0
        how = rng.randrange(6)
        if how == 0 and data:
            data[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)
        elif how == 1:
            del data[at:]
        elif how == 2:
            data[at:at] = rng.randbytes(rng.choice((1, 2, 4, 50)))
        elif how == 3:
            del data[at : at + rng.choice((1, 2, 4, 50))]
        elif how == 4:
            word = struct.pack("<I", rng.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000)))
            data[at : at + 4] = word
        else:
            start = rng.randrange(len(data) + 1)
            data[at:at] = data[start : start + rng.choice((4, 64))]
    return bytes(data)


def mutated_json(root: Any, rng: random.Random) -> Any:
    """Change, remove, add or swap values somewhere in a JSON document."""
    root = json.loads(json.dumps(root))
    for _ in range(rng.choice((1, 1, 2, 4))):
        item = root
        while isinstance(item, (dict, list)) and item:
            keys = list(item) if isinstance(item, dict) else list(range(len(item)))
            key = rng.choice(keys)
            if not isinstance(item[key], (dict, list)) or not item[key] or rng.random() < 0.2:
                how = rng.randrange(5)
                if how == 0:
                    del item[key]
                elif how == 1 and isinstance(item, list):
                    item.extend(copy.deepcopy([item[key]] * rng.choice((1, 2, 40))))
                elif how == 2 and isinstance(item, dict):
                    item[rng.choice(keys)] = copy.deepcopy(item[key])
                else:
                    item[key] = copy.deepcopy(rng.choice(VALUES))
                break
            item = item[key]
    return root

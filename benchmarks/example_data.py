"""The test parts of the example models, as files for ``export-bilstm --data``.

    python benchmarks/example_data.py FOLDER

writes ``addresses.npz``, ``japanese_vowels.npz`` and ``language.jsonl`` (500 of its phrases). The
packages sktime and wordfreq have the data of the last two; nothing is downloaded.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

EXAMPLES = Path(__file__).parents[1] / "examples"
PHRASES = 500
sys.path.insert(0, str(EXAMPLES))


def write_addresses(folder: Path) -> None:
    """Write the ids of words and characters, and the numbers of the tags."""
    from addresses import read_jsonl  # noqa: PLC0415 - in examples/
    from train_addresses import arrays  # noqa: PLC0415

    tables = [
        json.loads((EXAMPLES / f"addresses_{name}.json").read_text(encoding="utf-8"))
        for name in ("words", "characters")
    ]
    inputs, tags = arrays(read_jsonl(EXAMPLES / "addresses_test.jsonl"), *tables)
    np.savez(folder / "addresses.npz", **inputs, y=tags)


def write_japanese_vowels(folder: Path) -> None:
    """Write the utterances, padded, and their speakers."""
    from japanese_vowels import load_japanese_vowels, pad  # noqa: PLC0415 - in examples/

    _, _, utterances, speakers = load_japanese_vowels()
    np.savez(folder / "japanese_vowels.npz", cepstra=pad(utterances), y=speakers)


def write_language(folder: Path) -> None:
    """Write phrases and the numbers of their languages."""
    from train_language import TEST_PHRASES, dataset  # noqa: PLC0415 - in examples/

    texts, labels = dataset(1, TEST_PHRASES, 10**6)  # the test part, in random order
    lines = [
        json.dumps({"text": text, "y": int(label)})
        for text, label in zip(texts[:PHRASES], labels[:PHRASES], strict=True)
    ]
    (folder / "language.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for write in (write_addresses, write_japanese_vowels, write_language):
        write(out)

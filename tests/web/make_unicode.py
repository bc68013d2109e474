"""Writes web/lib/unicode_tables.js: where `tokenizers` and JavaScript class characters differently.

    python tests/web/make_unicode.py

Each part of the library `tokenizers` has tables of some version of Unicode, mostly of an older one
than a JavaScript engine. For each code point, the library is asked for its class, and so is Node.
Run it again with a new release of `tokenizers`, or with a Node that has a newer Unicode.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import tokenizers
from tokenizers import normalizers
from tokenizers import pre_tokenizers as splits

FILE: Final = Path(__file__).resolve().parents[2] / "web" / "lib" / "unicode_tables.js"
CODES: Final = (*range(0xD800), *range(0xE000, 0x110000))

_COLUMNS: Final = 96
_NFC, _NFD, _NFKD = normalizers.NFC(), normalizers.NFD(), normalizers.NFKD()
_ACCENTS: Final = normalizers.StripAccents()
_OFF: Final = {"clean_text": False, "handle_chinese_chars": False, "lowercase": False}
_NONSPACING: Final = normalizers.BertNormalizer(**_OFF, strip_accents=True)
_CLEAN: Final = normalizers.BertNormalizer(**{**_OFF, "clean_text": True}, strip_accents=False)
_BERT, _WORDS = splits.BertPreTokenizer(), splits.Whitespace()
_BYTE_LEVEL: Final = splits.ByteLevel(add_prefix_space=False)

_DROPPED_OR_KEPT: Final = "\0\t\n\r\ufffd"
"""What `clean_text` drops or keeps, whatever its class."""


def _pieces(splitter: splits.PreTokenizer, text: str) -> int:
    return len(splitter.pre_tokenize_str(text))


CLASSES: Final[Mapping[str, tuple[str, Callable[[str], bool]]]] = {
    "mark": (r"/\p{M}/u", lambda c: not _ACCENTS.normalize_str(c)),
    "nonspacing": (r"/\p{Mn}/u", lambda c: not _NONSPACING.normalize_str(c)),
    "control": (
        r"/(?![\0\t\n\r])[\p{Cc}\p{Cf}\p{Co}]/u",
        lambda c: c not in _DROPPED_OR_KEPT and not _CLEAN.normalize_str(c),
    ),
    "punctuation": (r"/[!-/:-@[-`{-~]|\p{P}/u", lambda c: _pieces(_BERT, f"a{c}a") == 3),
    "word": (
        r"/[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]/u",
        lambda c: _WORDS.pre_tokenize_str(f"a{c}b")[0][1] == (0, 3),
    ),
    "letter": (r"/\p{L}/u", lambda c: _pieces(_BYTE_LEVEL, f"a{c}") == 1),
    "number": (r"/\p{N}/u", lambda c: _pieces(_BYTE_LEVEL, f"1{c}") == 1),
}
"""For each class, the expression of JavaScript, and whether `tokenizers` puts a character in it."""

_SCRIPT: Final = """
const codes = JSON.parse(require("node:fs").readFileSync(0));
const found = { version: process.versions.unicode, classes: {}, forms: [] };
const classes = {CLASSES};
for (const [name, pattern] of Object.entries(classes)) {
  found.classes[name] = codes.filter((code) => pattern.test(String.fromCodePoint(code)));
}
for (const code of codes) {
  const one = String.fromCodePoint(code);
  const nfd = one.normalize("NFD");
  found.forms.push([
    nfd, one.normalize("NFKD"), `a${one}\\u0334`.normalize("NFD"),
    `a\\u0345${one}`.normalize("NFD"), nfd.normalize("NFC"),
  ]);
}
console.log(JSON.stringify(found));
"""


def differences(codes: Iterable[int]) -> tuple[str, dict[str, tuple[set[int], set[int]]]]:
    """Compare the library with Node.

    Args:
        codes: The code points to compare.

    Returns:
        Node's version of Unicode, and for each class the code points that are in it in JavaScript
        only, and in `tokenizers` only. "decomposed" and "base" stand for the first kind: characters
        that only JavaScript decomposes, reorders or joins as marks, and those that only JavaScript
        composes with what follows.
    """
    codes = list(codes)
    patterns = ", ".join(f"{name}: {pattern}" for name, (pattern, _) in CLASSES.items())
    done = subprocess.run(
        ["node", "-e", _SCRIPT.replace("{CLASSES}", f"{{ {patterns} }}")],
        input=json.dumps(codes), capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    result = {}
    for name, (_, is_in) in CLASSES.items():
        javascript = set(found["classes"][name])
        library = {code for code in codes if is_in(chr(code))}
        result[name] = javascript - library, library - javascript
    decomposed, base = set(result["mark"][0] | result["mark"][1]), set()
    for code, forms in zip(codes, found["forms"], strict=True):
        nfd, nfkd, before, after, composed = forms
        one = chr(code)
        if (
            _NFD.normalize_str(one) != nfd
            or _NFKD.normalize_str(one) != nfkd
            or _NFD.normalize_str(f"a{one}\u0334") != before
            or _NFD.normalize_str(f"a\u0345{one}") != after
        ):
            decomposed.add(code)
        if nfd != one and composed == one and _NFC.normalize_str(nfd) == nfd:
            base.add(ord(nfd[0]))
    result |= {"decomposed": (decomposed, set()), "base": (base, set())}
    return found["version"], result


def _ranges(codes: Iterable[int]) -> Iterator[str]:
    """Yield runs of code points, such as "5d0-5ea"."""
    run: list[int] = []
    for code in [*sorted(codes), None]:
        if run and code != run[-1] + 1:
            yield f"{run[0]:x}" if len(run) == 1 else f"{run[0]:x}-{run[-1]:x}"
            run = []
        if code is not None:
            run.append(code)


def _literal(codes: Iterable[int]) -> str:
    lines = [""]
    for part in _ranges(codes):
        if len(lines[-1]) + len(part) > _COLUMNS - 8:
            lines.append("")
        lines[-1] += f"{part} "
    joined = ' " +\n      "'.join(line.strip() for line in lines)
    return f'"{joined}"'


def main() -> None:
    """Write the file."""
    version, found = differences(CODES)
    entries = "".join(
        f"  {name}: {{\n    javascript:\n      {_literal(javascript)},\n"
        f"    tokenizers: {_literal(library)},\n  }},\n"
        for name, (javascript, library) in found.items()
    )
    FILE.write_text(
        f"// Written by tests/web/make_unicode.py, with tokenizers {tokenizers.__version__} and "
        f"Unicode {version} in Node.\n\n"
        "/** For each class, the characters in it in JavaScript only and in `tokenizers` only. */\n"
        f"export const ONLY_IN = {{\n{entries}}};\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()

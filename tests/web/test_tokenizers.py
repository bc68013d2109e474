"""The ES module reads tokenizer.json as the library `tokenizers` does."""

from __future__ import annotations

import json
import random
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from bilstm_runtime.preprocessing_spec import Fit, TokenizerFilePreprocessing
from bilstm_runtime.text.tokenizer_file import FileTokenizer

from .conftest import WEB

tokenizers = pytest.importorskip("tokenizers")
from tokenizers import AddedToken, Tokenizer, models, normalizers, trainers  # noqa: E402
from tokenizers import pre_tokenizers as splits  # noqa: E402
from tokenizers import processors as ends  # noqa: E402

pytestmark = pytest.mark.slow

CORPUS: Final = [
    "the cat sat on the mat, so good! it's été naïve 123 456",
    "Hello World don't stop 北京 café unaffable runner",
] * 5
SPECIAL: Final = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
FITS: Final = (
    Fit(),
    Fit(length=7, padding="post", truncating="post"),
    Fit(length=7),
    Fit(length=12, truncating="post"),
)
PIECES: Final = (
    *"the cat sat on mat so good it's été naïve 123 北京 don't [CLS] <mask> [X] x[X]y".split(),
    *" \t\n\r\u00a0\u2003\u3000\x85\x1c\ufeff\u200b\u200d\0\ufffd",
    *"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~…¿“。«»",
    *"\u0300\u0301\u0327\u0323\u0345\u0308\u093c\u3099\u1161\u11a8\u09be\u05b0\u061d\u0897\u088f",
    *"\U00011de0\U000110cd\u1734\u166d\U000111c9",
    *"İıſΣςßẞﬁ①½²Ⅷ한각가ᄀカガｶﾞ\u0958\ufdfa\u1e9b\u0344\u2126\U000105d2\u0307\U0001f600",
)


def _template(it: Any) -> Any:
    pairs = [(name, it.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    return ends.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=pairs)


def _pair(kind: Any) -> Callable[[Any], Any]:
    return lambda it: kind(*((name, it.token_to_id(name)) for name in ("[SEP]", "[CLS]")))


def _made(
    kind: str,
    split: Any,
    normalizer: Any = None,
    end: Callable[[Any], Any] | None = None,
    added: tuple[Any, ...] = (),
    **options: Any,
) -> Any:
    """A tokenizer that was trained on the corpus."""
    parts = {"continuing_subword_prefix", "end_of_word_suffix"} & options.keys()
    learned = {name: options[name] for name in parts}
    if kind == "bytes":
        learned["initial_alphabet"] = splits.ByteLevel.alphabet()
    else:
        options["unk_token"] = "[UNK]"
    model = {"word": models.WordLevel, "piece": models.WordPiece}.get(kind, models.BPE)
    trainer = {"word": trainers.WordLevelTrainer, "piece": trainers.WordPieceTrainer}.get(
        kind, trainers.BpeTrainer
    )
    found = Tokenizer(model(**options))
    if normalizer is not None:
        found.normalizer = normalizer
    if split is not None:
        found.pre_tokenizer = split
    found.train_from_iterator(
        CORPUS, trainer(vocab_size=320, special_tokens=SPECIAL, show_progress=False, **learned)
    )
    found.add_tokens(list(added))
    if end is not None:
        found.post_processor = end(found)
    return found


def _all() -> dict[str, Any]:
    n, s = normalizers, splits
    bert = n.BertNormalizer
    made = {
        "words": _made("word", s.Whitespace()),
        "nfkc": _made(
            "word", s.WhitespaceSplit(), n.Sequence([n.NFKC(), n.Lowercase()]), _template
        ),
        "nfc": _made("word", s.Sequence([s.WhitespaceSplit(), s.Punctuation()]), n.NFC()),
        "nfkd": _made(
            "word", s.Sequence([s.Whitespace(), s.Digits(individual_digits=True)]), n.NFKD()
        ),
        "bert": _made(
            "piece", s.BertPreTokenizer(), bert(), _pair(ends.BertProcessing),
            max_input_chars_per_word=12,
        ),
        "cased": _made(
            "piece", s.BertPreTokenizer(), bert(lowercase=False), _template,
            (AddedToken("cat", single_word=True), AddedToken(" so ", lstrip=True, rstrip=True)),
        ),
        "accents": _made(
            "piece", s.Whitespace(),
            n.Sequence([n.NFD(), n.StripAccents(), n.Strip(), n.Replace("the", "THE"),
                        n.Prepend("_")]),
        ),
        "gpt": _made("bytes", s.ByteLevel(add_prefix_space=False),
                     end=lambda _: ends.ByteLevel(trim_offsets=True)),
        "roberta": _made(
            "bytes", s.ByteLevel(add_prefix_space=True), None, _pair(ends.RobertaProcessing),
            (AddedToken("<mask>", lstrip=True), AddedToken("été", normalized=True)),
        ),
        "digits": _made(
            "bytes", s.Sequence([s.Digits(), s.ByteLevel(add_prefix_space=False)]), n.NFC(),
            lambda it: ends.Sequence([ends.ByteLevel(trim_offsets=False), _template(it)]),
        ),
        "metaspace": _made("merges", s.Metaspace(), n.Lowercase(), fuse_unk=True),
        "first": _made(
            "merges", s.Metaspace(prepend_scheme="first"), added=(AddedToken("[X]"),)
        ),
        "suffix": _made("merges", s.BertPreTokenizer(), bert(), end_of_word_suffix="</w>"),
        "prefix": _made("merges", s.Whitespace(), continuing_subword_prefix="##"),
        "whole": _made("bytes", s.ByteLevel(add_prefix_space=False, use_regex=False), n.NFKC()),
        "unsplit": _made("merges", None, n.Sequence([n.Strip(right=False), n.Replace(" ", "▁")])),
        "fallback": Tokenizer(
            models.BPE(
                vocab={f"<0x{i:02X}>": i for i in range(256)}
                | {"<unk>": 256, "▁": 257, "t": 258, "h": 259, "e": 260, "th": 261, "the": 262},
                merges=[("t", "h"), ("th", "e")], unk_token="<unk>", byte_fallback=True,
            )
        ),
    }  # fmt: skip
    unigram = Tokenizer(models.Unigram())
    unigram.pre_tokenizer, unigram.normalizer = s.Metaspace(), n.NFKC()
    unigram.train_from_iterator(
        CORPUS,
        trainers.UnigramTrainer(
            vocab_size=90, special_tokens=SPECIAL, unk_token="[UNK]", show_progress=False
        ),
    )
    made["unigram"] = unigram
    made["unigram of bytes"] = Tokenizer(
        models.Unigram(
            [
                ("<unk>", 0.0),
                *((f"<0x{i:02X}>", -9.0) for i in range(256)),
                ("the", -2.0),
                ("th", -1.5),
                ("e", -1.0),
                (" ", -0.5),
                ("so", -3.25),
                ("goo", -3.0),
                ("d", -4.0),
            ],
            unk_id=0,
            byte_fallback=True,
        )
    )
    made["fallback"].normalizer = n.Sequence([n.Prepend("▁"), n.Replace(" ", "▁")])
    made["words"].enable_truncation(9, direction="left")
    made["words"].enable_padding(direction="left", pad_to_multiple_of=4)
    for behavior in ("removed", "merged_with_previous", "merged_with_next", "contiguous"):
        made[behavior] = _made("piece", s.Punctuation(behavior))
    return made


def _texts(count: int) -> list[str]:
    rng = random.Random(17)
    code_points = [*range(32, 0xD800), *range(0xE000, 0x1FB00)]

    def text() -> str:
        size = rng.randrange(25)
        if rng.random() < 0.3:
            return " ".join(rng.choices(PIECES[:20], k=size))
        return "".join(
            rng.choice(PIECES) if rng.random() < 0.8 else chr(rng.choice(code_points))
            for _ in range(size)
        )

    return ["", " ", "the cat", *(text() for _ in range(count))]


def test_the_tables_are_those_of_the_library(node: str) -> None:
    """At the ends of all ranges, and elsewhere at random; `make_unicode` compares all."""
    from .make_unicode import CODES, FILE, differences

    text = FILE.read_text("utf-8")
    ranges = re.findall(r"\b([0-9a-f]+)(?:-([0-9a-f]+))?(?=[ \"])", text.split("ONLY_IN")[1])
    ends = {int(end, 16) + step for one in ranges for end in one if end for step in (-1, 0, 1)}
    codes = sorted((ends & set(CODES)) | set(random.Random(3).sample(CODES, 3_000)))
    version, found = differences(codes)
    if f"tokenizers {tokenizers.__version__} and Unicode {version} in" not in text:
        pytest.skip("the file is of other versions")
    assert len(ranges) > 400
    for name, kinds in found.items():
        block = re.search(rf"  {name}: {{(.*?)\n  }},", text, re.DOTALL)
        assert block is not None
        for kind, wanted in zip(("javascript", "tokenizers"), kinds, strict=True):
            literal = re.search(rf'{kind}:\s*("[^,]*),', block[1])
            assert literal is not None
            held: set[int] = set()
            for first, last in re.findall(r"([0-9a-f]+)(?:-([0-9a-f]+))?", literal[1]):
                held.update(range(int(first, 16), int(last or first, 16) + 1))
            assert wanted <= held, (name, kind)
            assert name == "base" or held & set(codes) == wanted, (name, kind)


def _encoded(node: str, jobs: list[dict[str, Any]]) -> list[Any]:
    result = subprocess.run(
        [node, Path(__file__).parent / "encode.mjs", WEB],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return json.loads(result.stdout)


def test_ids_and_tokens_are_those_of_the_library(node: str) -> None:
    found = _all()
    jobs, wanted = [], []
    texts = _texts(60)
    for number, it in enumerate(found.values()):
        for fit in FITS if number % 3 == 0 else FITS[:1]:
            file = it.to_str()
            item = TokenizerFilePreprocessing(
                input="x", file="tokenizer.json", bytes=0, sha256="0" * 64, fit=fit
            )
            encoder = FileTokenizer(item, lambda _, file=file: file.encode())
            wanted.append(
                [
                    [
                        encoder.encode(text, "x").tolist(),
                        [[one.text, one.step] for one in encoder.tokens(text, "x").tokens],
                    ]
                    for text in texts
                ]
            )
            jobs.append({"file": file, "fit": vars(fit), "texts": texts})
    for job, rows, others in zip(jobs, wanted, _encoded(node, jobs), strict=True):
        for text, row, other in zip(texts, rows, others, strict=True):
            assert other == row, (text, job)


@pytest.mark.parametrize(
    ("part", "value", "name"),
    [
        ("normalizer", {"type": "Nmt"}, "the normalizer Nmt"),
        (
            "normalizer", {"type": "Replace", "pattern": {"Regex": "a+"}, "content": ""},
            "the normalizer Replace of a regular expression",
        ),
        ("pre_tokenizer", {"type": "UnicodeScripts"}, "the pre-tokenizer UnicodeScripts"),
        ("post_processor", {"type": "Other"}, "the post-processor Other"),
        ("model", {"type": "Other", "vocab": {"a": 0}}, "the model Other"),
    ],
)  # fmt: skip
def test_other_parts_end_in_a_sentence(part: str, value: Any, name: str, node: str) -> None:
    root = json.loads(_made("word", splits.Whitespace()).to_str())
    root[part] = value
    job = {"file": json.dumps(root), "fit": vars(Fit()), "texts": ["the"]}
    (((error, message),),) = _encoded(node, [job])
    assert error == "TokenizerError"
    assert message == (
        f"the text: tokenizer.json has {name}, which this package does not do; compute the ids "
        "with the library tokenizers and give those"
    )


def test_damaged_files_and_limits(node: str) -> None:
    root = json.loads(_made("word", splits.Whitespace()).to_str())
    long = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 257}
    files = ["{", json.dumps(root | {"normalizer": long}), json.dumps({"model": None})]
    jobs = [{"file": file, "fit": vars(Fit()), "texts": ["the"]} for file in files]
    for ((name, message),) in _encoded(node, jobs):
        assert name == "BundleError"
        assert message.startswith("tokenizer.json cannot be read: ")

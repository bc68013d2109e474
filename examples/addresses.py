"""Postal addresses of the USA with a tag for each word, from the source archive of usaddress.

The archive, `usaddress-0.5.16.tar.gz`, comes from PyPI:

    pip download --no-deps --no-binary usaddress usaddress==0.5.16

The words of an address are separated by spaces. Its tags, such as `B-street` and `I-street`, mark
where a part begins and where it goes on.
"""

import json
import random
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

FILES = (
    "labeled.xml", "multi_word_state_addresses.xml", "us50_messiest_manual_label.xml",
    "us50_train_tagged.xml",
)  # fmt: skip
"""The files with addresses that people labelled; the other ones are generated."""

PARTS = {
    "number": "AddressNumber",
    "street": "StreetName",
    "unit": "Occupancy|Subaddress",
    "box": "USPSBox",
    "building": "BuildingName|LandmarkName",
    "city": "PlaceName",
    "state": "StateName",
    "zip": "ZipCode",
    "country": "CountryName",
}
"""The parts of an address, with the beginnings of the labels in the files that are one."""

TAGS = ("O", *(f"{side}-{part}" for part in PARTS for side in "BI"))
NAMES_OF_PEOPLE = "Recipient"
"""The label of addressees. Addresses with one are left out."""

TEST_SHARE = 5
"""One address of this many is for the test."""


@dataclass(frozen=True)
class Address:
    """An address.

    Attributes:
        words: Its words.
        tags: The tag of each word.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]

    @property
    def text(self) -> str:
        """The words, separated by spaces."""
        return " ".join(self.words)


def load_addresses(archive: Path) -> tuple[list[Address], list[Address]]:
    """Reads the addresses, each once.

    Returns:
        Those to train on and those for the test, in random order.
    """
    found: dict[str, Address] = {}
    with tarfile.open(archive) as files:
        members = {Path(one.name).name: one for one in files if "/training/" in one.name}
        for name in FILES:
            for address in _parsed(files.extractfile(members[name]).read()):
                found.setdefault(address.text.lower(), address)
    addresses = [found[text] for text in sorted(found)]
    random.Random(0).shuffle(addresses)  # noqa: S311 - not for cryptography
    count = len(addresses) // TEST_SHARE
    return addresses[count:], addresses[:count]


def read_jsonl(path: Path) -> list[Address]:
    """Reads what `write_jsonl` wrote."""
    lines = path.read_text(encoding="utf-8").splitlines()
    pairs = [json.loads(line) for line in lines]
    return [Address(tuple(one["text"].split(" ")), tuple(one["tags"])) for one in pairs]


def write_jsonl(addresses: Iterable[Address], path: Path) -> None:
    """Writes a line for each address, with `text` and `tags`."""
    lines = [json.dumps({"text": one.text, "tags": one.tags}) for one in addresses]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _parsed(content: bytes) -> Iterator[Address]:
    for element in ET.fromstring(content):  # noqa: S314 - a published archive
        labels = [part.tag for part in element]
        if not labels or NAMES_OF_PEOPLE in labels:
            continue
        pieces = [(element.text or "", None)]
        for part in element:
            pieces += [(part.text or "", part.tag), (part.tail or "", None)]
        text = "".join(piece for piece, _ in pieces)
        label_at = [label for piece, label in pieces for _ in piece]
        words, tags, before = [], [], None
        for match in re.finditer(r"\S+", text):
            labels = [label for label in label_at[match.start() : match.end()] if label]
            part = _part_of(labels[0]) if labels else None
            tags.append(f"{'I' if part == before else 'B'}-{part}" if part else "O")
            words.append(match[0])
            before = part
        yield Address(tuple(words), tuple(tags))


def _part_of(label: str) -> str | None:
    """Finds the part that a label of the files belongs to; None for separators."""
    for part, pattern in PARTS.items():
        if re.match(pattern, label):
            return part
    return None

"""The argument parser of all commands: errors in one line, and help of whole words."""

from __future__ import annotations

import argparse
import difflib
import textwrap
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_LIKENESS: Final = 0.75
"""How alike two names are, of 1, for one to be a misspelling of the other."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Suggest the known name that is most like an unknown one.

    Returns:
        "; did you mean 'NAME'?", or "" if none is like it.
    """
    by_lower = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name.lower(), by_lower, 1, _LIKENESS)
    return f"; did you mean {by_lower[near[0]]!r}?" if near else ""


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Breaks lines between words only, so that names of options and files stay whole."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return _wrapped(" ".join(text.split()), width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Keep the lines of a text; wrap those that are longer than the terminal is wide."""
        lines = (part for line in text.splitlines() for part in _wrapped(line, width) or [""])
        return "\n".join(indent + line for line in lines)


def _wrapped(line: str, width: int) -> list[str]:
    return textwrap.wrap(
        line,
        width,
        subsequent_indent=line[: len(line) - len(line.lstrip())],
        break_long_words=False,
        break_on_hyphens=False,
    )


class CommandParser(argparse.ArgumentParser):
    """Parses the arguments of a command; an error is one line, and exits with code 2."""

    def __init__(self, **options: Any) -> None:
        """Take the options of `argparse.ArgumentParser`."""
        super().__init__(formatter_class=HelpFormatter, **options)

    def parse_args(  # type: ignore[override] # without a namespace
        self, args: Sequence[str] | None = None
    ) -> argparse.Namespace:
        """Parse arguments; unknown ones are an error that suggests the nearest option."""
        parsed, unknown = self.parse_known_args(args)
        if unknown:
            option = next((one for one in unknown if one.startswith("-")), None)
            if option is None:
                self.error(f"unexpected argument {unknown[0]!r}")
            name = option.partition("=")[0]
            self.error(
                f"there is no option {name}{did_you_mean(name, self._option_string_actions)}"
            )
        return parsed

    def error(self, message: str) -> NoReturn:
        """Write one line and exit with code 2."""
        self.exit(2, f"{self.prog}: error: {message} (options: {self.prog} --help)\n")

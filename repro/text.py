"""Parts of messages: suggestions, counts, lists of seeds, addresses without passwords."""

import difflib
import re
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `, did you mean 'x'?` with the nearest known word, or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def plural(count: int, noun: str) -> str:
    """Return `1 epoch`, `2 epochs`, `1,000 epochs`."""
    return f"{count:,} {noun}" + "s" * (count != 1)


def seed_list(seeds: Iterable[int]) -> str:
    """Return seeds as `--seeds` takes them, ascending: `0-2,7`."""
    parts: list[list[int]] = []
    for seed in sorted(seeds):
        if parts and seed == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], seed]
        else:
            parts.append([seed])
    return ",".join("-".join(map(str, part)) for part in parts)


def odd_number(text: str) -> bool:
    """Whether Python reads a number that is not of the digits 0 to 9 alone: 1_0, or digits of another script."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" in text or not text.isascii()


def printable(text: str) -> str:
    """Return the text in one line, with backslash escapes for what a terminal would execute or hide."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def without_password(text: str) -> str:
    """Return the text with passwords in addresses replaced by stars."""
    text = re.sub(r"(:/{1,2}[^:/@\s]*:)[^\s'\"]+@", r"\1***@", text)
    return re.sub(r"(password=)[^&\s'\"]+", r"\1***", text)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without passwords; its class if there is no message."""
    return without_password((str(error).strip() or type(error).__name__).splitlines()[0])

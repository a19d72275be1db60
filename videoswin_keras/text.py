"""Names of files and classes from strangers, made safe to show."""

import unicodedata
from pathlib import Path


def printable(name: str | Path) -> str:
    """Returns a name as one line of text: what cannot be shown, or would steer a terminal, as its escape.

    Example:

    >>> printable("night\\x1b[2J\\n.mp4")
    'night\\\\x1b[2J\\\\n.mp4'
    """
    text = str(name)
    try:  # a file's name may have any bytes, which Python keeps as surrogates
        content = text.encode("utf-8", errors="surrogateescape")
    except UnicodeEncodeError:  # others
        content = text.encode("utf-8", errors="replace")
    return "".join(
        character
        if character.isprintable() or unicodedata.category(character) == "Zs"
        else character.encode("unicode_escape").decode()
        for character in content.decode("utf-8", errors="replace")
    )


def printable_lines(text: str) -> str:
    """Returns a message of one or several lines, each of them `printable`."""
    return "\n".join(map(printable, text.split("\n")))


def spreadsheet_safe(text: str) -> str:
    """Returns a text that a spreadsheet does not run as a formula: with an apostrophe before "=", "+", "-" or "@".

    Example:

    >>> spreadsheet_safe("=HYPERLINK(1)"), spreadsheet_safe("lying")
    ("'=HYPERLINK(1)", 'lying')
    """
    text = printable(text)
    return f"'{text}" if text[:1] in {"=", "+", "-", "@"} else text

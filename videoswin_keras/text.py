"""Names of files and classes from strangers, made safe to show."""

import hashlib
import os
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
        for character in content.decode("utf-8", errors="backslashreplace")
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


_LONGEST_NAME = 255  # bytes of a file's name, on most file systems


def file_name(name: str, ending: str = "") -> str:
    """Returns a name that a new file or folder can have, wherever it comes from: one, in the folder that it is put in.

    Args:
        name: From which it is made.
        ending: With which it ends.

    Example:

    >>> file_name(".."), file_name("sow/7", ".vtt"), len(file_name(300 * "m"))
    ('__', 'sow_7.vtt', 255)
    """
    safe = printable(name).replace("/", "_").replace("\\", "_")
    if not safe.strip("."):
        safe = "_" * max(1, len(safe))
    room = _LONGEST_NAME - len(os.fsencode(ending))
    if len(safe.encode()) > room:  # what is cut off is told from others by its checksum
        checksum = "-" + hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
        safe = safe.encode()[: room - len(checksum)].decode(errors="ignore") + checksum
    return safe + ending

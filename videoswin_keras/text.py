"""Names of files and classes from strangers, made safe to show and to write."""

import hashlib
import json
import os
import re
import unicodedata
from pathlib import Path
from typing import Any

# Control characters, and those that change in which direction others are shown, or whether; JSON escapes the rest.
_STEERING = re.compile(r"[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
_SURROGATES = re.compile(r"[\ud800-\udfff]+")
# How a formula begins, in a cell and where ";" separates cells; East Asian spreadsheets take the wide signs too.
_FORMULA = re.compile(r"(^|;)(\s*)(?=[=+\-@＝＋－＠])")


def writable(name: str | Path) -> str:
    r"""Returns a name as text that every file can hold: bytes that are not UTF-8 as their escapes.

    All else is as it was: this is for data that programs read (JSON). `printable` is for what people read.

    Example:

    >>> writable(os.fsdecode(b"sow \xff.mp4"))
    'sow \\xff.mp4'
    """
    return _SURROGATES.sub(lambda found: _bytes_shown(found[0]), str(name))


def writable_json(content: Any, indent: int | None = None) -> str:
    """Returns JSON of which all texts are `writable`, and steer no terminal: the same, read by a program."""
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    text = _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return _SURROGATES.sub(lambda found: json.dumps(_bytes_shown(found[0]), ensure_ascii=False)[1:-1], text)


def _bytes_shown(surrogates: str) -> str:
    """Returns what Python keeps of a file's name as surrogates: characters where they are UTF-8, escapes elsewhere."""
    try:
        content = surrogates.encode("utf-8", errors="surrogateescape")
    except UnicodeEncodeError:  # others, of a broken JSON or of Windows
        content = surrogates.encode("utf-8", errors="backslashreplace")
    return content.decode("utf-8", errors="backslashreplace")


def printable(name: str | Path) -> str:
    """Returns a name as one line of text: what cannot be shown, or would steer a terminal, as its escape.

    Example:

    >>> printable("night\\x1b[2J\\n.mp4")
    'night\\\\x1b[2J\\\\n.mp4'
    """
    return "".join(
        character
        if character.isprintable() or unicodedata.category(character) == "Zs"
        else character.encode("unicode_escape").decode()
        for character in writable(name)
    )


def printable_lines(text: str) -> str:
    """Returns a message of one or several lines, each of them `printable`, with its tabs."""
    return re.sub(r"[^\n\t]+", lambda found: printable(found[0]), text)


def spreadsheet_safe(text: str) -> str:
    """Returns a text that a spreadsheet does not run as a formula: with an apostrophe before "=", "+", "-" or "@".

    Also after a ";", which separates cells for spreadsheets of many countries.

    Example:

    >>> spreadsheet_safe("=HYPERLINK(1)"), spreadsheet_safe("a;@b"), spreadsheet_safe("lying")
    ("'=HYPERLINK(1)", "a;'@b", 'lying')
    """
    return _FORMULA.sub(r"\1\2'", printable(text))


_LONGEST_NAME = 255  # bytes of a file's name, on most file systems


def file_name(name: str, ending: str = "") -> str:
    """Returns a name that a new file or folder can have on every system, and that leads to no other folder.

    Args:
        name: From which it is made.
        ending: With which it ends.

    Example:

    >>> file_name(".."), file_name("sow/7", ".vtt"), len(file_name(300 * "m"))
    ('__', 'sow_7.vtt', 255)
    """
    safe = re.sub(r'[/\\:*?"<>|]|[. ]+$', lambda found: "_" * len(found[0]), printable(name)) or "_"
    room = _LONGEST_NAME - len(ending.encode())
    if len(safe.encode()) > room:  # what is cut off is told from others by its checksum
        checksum = "-" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        safe = safe.encode()[: room - len(checksum)].decode(errors="ignore") + checksum
    return os.fsdecode((safe + ending).encode())  # as this system names files, also where its locale is ASCII alone

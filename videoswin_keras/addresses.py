"""Addresses of cameras and downloads: shown without the secrets in them, and told from each other."""

import hashlib
import re
from collections.abc import Iterable

from videoswin_keras.text import printable

# What an address begins with, also where `pathlib` took one of the slashes; a letter and a colon are a drive.
_SCHEME = re.compile(r"(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]+:/+")
# Names that people and machines give to what nobody else may know, before a "=" in a path.
_PASSWORD = r"(?:password|passwd|passphrase|pass|pwd)"
_NAMES = rf"{_PASSWORD}|psw|passcode|pin|jwt|session|sid|token|secret|signature|sig|auth|credentials?|key"
_SECRET = re.compile(rf"(?i)((?<![a-z])(?:{_NAMES})(?:=|%3d)).*")
_PASSWORD_AND_VALUE = re.compile(rf"(?i)({_PASSWORD}=)[^&;/_?]*")
_PORT = r"(?::\d*)?"
_SURE_HOST = re.compile(rf"(?:\[[^\]]*\]|localhost|[\w-]+(?:\.[\w-]+)+){_PORT}")
_HOST = re.compile(rf"(?:\[[^\]]*\]|[^:]*){_PORT}")


def is_address(text: str) -> bool:
    """Whether `text` is an address, such as "https://…" or "rtsp://…", and neither a path nor a name.

    Example:

    >>> is_address("rtsp://10.0.0.7/1"), is_address("night.mp4"), is_address("C:/night.mp4")
    (True, False, False)
    """
    return bool(_SCHEME.match(text))


def is_web_address(text: str) -> bool:
    """Whether `text` is an http or https address."""
    return text.lower().startswith(("http://", "https://"))


def without_user(address: str) -> str:
    """Returns an address without the user and the password before its host.

    Example:

    >>> without_user("http://user:secret@10.0.0.7/live?channel=2")
    'http://10.0.0.7/live?channel=2'
    """
    scheme, _, host, rest = _parts(address)
    return scheme + host + rest


def public_address(text: str) -> str:
    """Returns an address for people: without all that may be secret. Other text is returned as it is.

    Left away are user and password, which may hold any characters; all after a "?", ";" or "#"; and what follows
    "password=", "token=" and the like in the path. A secret that is a part of a path like any other cannot be told.

    Example:

    >>> public_address("rtsp://user:secret@10.0.0.7:554/stream@1?channel=2")
    'rtsp://10.0.0.7:554/stream@1'
    >>> public_address("https://example.org/model.pth;key=secret?token=secret")
    'https://example.org/model.pth'
    """
    if not (scheme := _SCHEME.search(text)):
        return text
    _, _, host, rest = _parts(text[scheme.start() :])
    path = re.split("[?;#]", rest, maxsplit=1)[0]
    return printable(text[: scheme.end()] + host + _SECRET.sub(r"\1", path))


def without_secrets(text: str, given: Iterable[str] = ()) -> str:
    """Returns a message with every address in it as `public_address` shows it.

    Args:
        text: The message.
        given: Arguments of a command line that may be in it; addresses in them may have spaces.

    Example:

    >>> without_secrets("No answer from https://example.org/model.pth?token=secret today")
    'No answer from https://example.org/model.pth today'
    """
    for argument in given:
        if found := _SCHEME.search(argument):
            address = argument[found.start() :]
            text = text.replace(address, public_address(address))
    return re.sub(rf"{_SCHEME.pattern}\S+", lambda match: public_address(match[0]), text)


def public_file_name(name: str) -> str:
    """Returns the last part of an address's path as a file's name: without secrets, and of plain characters.

    Example:

    >>> public_file_name("swin tiny.pth;token=secret")
    'swin_tiny.pth'
    """
    return re.sub(r"[^\w.+-]", "_", _SECRET.sub(r"\1", name.partition(";")[0]))


def identity(address: str) -> str:
    """Returns what tells an address from others: eight digits, a checksum of all of it but passwords.

    Example:

    >>> identity("rtsp://user:old@10.0.0.7/1?channel=2") == identity("rtsp://user:new@10.0.0.7/1?channel=2")
    True
    >>> identity("rtsp://10.0.0.7/1?channel=1") == identity("rtsp://10.0.0.7/1?channel=2")
    False
    """
    scheme, user, host, rest = _parts(address)
    path, _, query = rest.partition("?")
    told = _PASSWORD_AND_VALUE.sub(r"\1", f"{scheme}{user.partition(':')[0]}@{host}{path}?{query}")
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _parts(address: str) -> tuple[str, str, str, str]:
    """Returns scheme and "://", user and password, host and port, and all that follows.

    People paste passwords as they are, with "@", "/", "?" and "#" in them. So the host is the first that can only be
    one, or the last, where a user and a colon come first; else what comes after the last "@".
    """
    found = _SCHEME.match(address)
    scheme = found[0] if found else ""
    candidates = address[len(scheme) :].split("@")
    hosts = [re.match(r"[^/?#]*", candidate)[0] for candidate in candidates]  # type: ignore[index]
    last = len(candidates) - 1

    def is_host(number: int) -> bool:
        host = hosts[number]
        is_user = host == candidates[number] and number < last  # an "@" comes next
        return not is_user and bool(_SURE_HOST.fullmatch(host) or (number == 0 and ":" not in host))

    order = range(last + 1) if ":" not in hosts[0] or is_host(0) else range(last, 0, -1)
    number = next(filter(is_host, order), last)
    host, rest = hosts[number], "@".join(candidates[number:])
    if not _HOST.fullmatch(host):  # a user and a password, and no host at all
        host = host.partition(":")[0]
        rest = host
    return scheme, "@".join(candidates[:number]), host, rest[len(host) :]

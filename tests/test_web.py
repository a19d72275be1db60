"""Which redirects are followed."""

from email.message import Message
from io import BytesIO
from urllib.error import HTTPError
from urllib.request import Request

import pytest

from videoswin_keras.web import _Redirects


@pytest.mark.parametrize(
    ("old", "new", "is_followed"),
    [
        ("http://a/x", "http://b/x", True),
        ("http://a/x", "https://a/x", True),
        ("https://a/x", "https://b/x", True),
        ("https://a/x", "http://a/x", False),
        ("https://a/x", "ftp://a/x", False),
        ("http://a/x", "ftp://a/x", False),
        ("http://a/x", "file:///x", False),
    ],
)
def test_no_redirect_loses_what_protected_the_address(old, new, is_followed):
    arguments = Request(old), BytesIO(), 302, "Found", Message(), new
    if is_followed:
        assert _Redirects().redirect_request(*arguments).full_url == new
    else:
        with pytest.raises(HTTPError):
            _Redirects().redirect_request(*arguments)

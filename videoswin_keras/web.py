"""Opens http and https addresses, and follows only redirects to others of them that are as well protected."""

from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener


class _Redirects(HTTPRedirectHandler):
    """Refuses the redirects that urllib follows to ftp, and from https to http."""

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        allowed = {"http": {"http", "https"}, "https": {"https"}}
        if urlsplit(newurl).scheme not in allowed[urlsplit(req.full_url).scheme]:
            raise HTTPError(req.full_url, code, msg, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def open_url(request: Request, timeout: float) -> Any:
    """Opens an http or https address: the response is urllib's.

    Args:
        request: What to ask for.
        timeout: Seconds without an answer.

    Raises:
        HTTPError: if the server refuses, or redirects too often, to another kind of address, or from https to http.
        URLError, OSError, HTTPException: if there is no answer.
    """
    return build_opener(_Redirects).open(request, timeout=timeout)

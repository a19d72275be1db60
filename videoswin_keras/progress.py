"""Progress bars on the stream of errors, where there is one."""

import sys
from typing import Any

from tqdm import tqdm

from videoswin_keras.text import printable


class Bar(tqdm):
    """A bar of tqdm on `sys.stderr`; where a process has none (a daemon), one that shows nothing.

    Bars move the cursor. A stream that lets nobody do so says in `for_bars` where they go in its place.
    """

    def __init__(self, *arguments: Any, **settings: Any):
        settings["file"] = getattr(sys.stderr, "for_bars", sys.stderr)
        if settings["file"] is None:
            settings["disable"] = True
        if "desc" in settings:
            settings["desc"] = printable(settings["desc"])
        super().__init__(*arguments, **settings)

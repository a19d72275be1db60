"""`python -m videoswin_keras`: the command `videoswin`."""

import sys

from videoswin_keras.cli.main import command

if __name__ == "__main__":
    sys.exit(command())

"""`python -m videoswin_keras`: the command `videoswin`."""

import sys

from videoswin_keras.cli.main import command

sys.exit(command())

"""`videoswin models`: the checkpoints that can be named."""

import argparse

HELP = "List the published checkpoints that can be loaded by name."
EXAMPLES = """examples:
  videoswin models
  videoswin convert tiny_kinetics400 -o tiny.weights.h5"""

NEEDS = None  # not even Keras


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(options: argparse.Namespace) -> int:
    from videoswin_keras.checkpoints import zoo

    print(zoo.table())
    return 0

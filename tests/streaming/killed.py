"""Runs a command of `videoswin` in children that are killed (SIGKILL) at random moments, and goes on until it is done.

    python killed.py KILLS FOLDER COMMAND…

{out} in the command is FOLDER/0 for a first run, which nothing disturbs, then FOLDER/1: killed and resumed until it is
done; if that was before all the kills, FOLDER/2, and so on. The children are forks, so that Keras is imported once.
"""

import os
import random
import select
import signal
import sys
import time

from videoswin_keras.cli.main import main


def run(arguments: list[str], seconds: float | None) -> tuple[bool, float]:
    """Returns whether the command was done before it was killed after some seconds, and how long it ran."""
    reading, writing = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if not child:
        os.close(reading)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(main(arguments))
    os.close(writing)
    is_done = bool(select.select([reading], [], [], seconds)[0])  # readable when the child's end of the pipe closes
    if not is_done:
        os.kill(child, signal.SIGKILL)
    os.close(reading)
    status = os.waitpid(child, 0)[1]
    if is_done and status:
        sys.exit(f"the command failed: {status}")
    return is_done, time.monotonic() - began


def kill_time_and_again(kills: int, folder: str, command: list[str]) -> None:
    def arguments(number: int) -> list[str]:
        return [part.format(out=f"{folder}/{number}") for part in command]

    _, whole = run(arguments(0), None)
    _, start_up = run(arguments(0), None)  # there is nothing left to do
    number, count = 1, 0
    while count < kills:
        work = random.uniform(0, 2) * (whole - start_up) / kills
        is_done, _ = run(arguments(number), start_up * random.uniform(0.5, 1) + work)
        number += is_done
        count += not is_done
    run(arguments(number), None)
    print(f"{count} kills in {number} runs of {whole:.1f} s, {start_up:.1f} s of them to start")


if __name__ == "__main__":
    kill_time_and_again(int(sys.argv[1]), sys.argv[2], sys.argv[3:])

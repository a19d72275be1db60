"""What `make fuzz` runs: on the readers that need no model, and on readers that do what none may."""

import os
import signal
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import fuzz
import pytest

pytestmark = pytest.mark.one_backend


def test_readers_refuse_what_is_damaged():
    kinds = ["pth", "pth_legacy", "safetensors", "state", "name", "journal"]
    done, found = fuzz.fuzz(kinds, seconds=0, seed=1, count=10)
    assert done == 60
    assert found == []


def fails(folder):
    raise KeyError("of no documented kind")


def ends(folder):
    os.kill(os.getpid(), signal.SIGKILL)


def takes_much(folder):
    bytearray(2**29)


def takes_long(folder):
    while True:
        pass


def runs(folder):
    subprocess.run(["true"])


def computes(folder):
    exec((folder / "name").read_bytes()[:0] or "1")


def writes(folder):
    (Path(__file__).parent / "absent" / "file").open("w")


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (fails, "of no documented kind"), (ends, "ended by SIGKILL"), (takes_much, "MB"),
        (takes_long, "longer than 1 s"), (runs, "subprocess.Popen"), (computes, "exec"), (writes, "absent/file"),
    ],
)  # fmt: skip
def test_readers_that_do_harm_are_found(read, said, monkeypatch, tmp_path):
    def only_when_damaged(folder):
        if folder.name == "case":
            read(folder)

    harmful = replace(fuzz.KINDS["name"], read=only_when_damaged, errors=(OSError,))
    monkeypatch.setitem(fuzz.KINDS, "name", harmful)
    monkeypatch.setattr(fuzz, "SECONDS", 1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where what is found is kept
    _, found = fuzz.fuzz(["name"], seconds=0, seed=1, count=3)
    assert len(found) == 1
    assert said in found[0]
    assert "name, seed 1, case 0:" in found[0]

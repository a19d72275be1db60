"""What is shown of an address, and what tells one from another."""

import pytest

from videoswin_keras.addresses import (
    identity,
    is_address,
    public_address,
    public_file_name,
    without_secrets,
    without_user,
)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://user:p%40ss@10.0.0.2:554/ch1?x=1", "rtsp://10.0.0.2:554/ch1"),
        ("rtsp://user:pa/ss@host/1", "rtsp://host/1"),
        ("rtsp://user:p@ss@host/", "rtsp://host/"),
        ("rtsp://user:p@s/s@host/1", "rtsp://host/1"),
        ("rtsp://user:12/34@host/1", "rtsp://host/1"),
        ("rtsp://user:p?ss@host/1", "rtsp://host/1"),
        ("rtsp://user:p#ss@host:554/1", "rtsp://host:554/1"),
        ("rtsp://user:secret@10.0.0.7/stream@1", "rtsp://10.0.0.7/stream@1"),
        ("rtsp://user.name@example.org:secret@[fe80::1]:554/1", "rtsp://[fe80::1]:554/1"),
        ("rtsp://u:p@se.cret/x@10.0.0.1/1", "rtsp://10.0.0.1/1"),
        ("rtsp://10.0.0.1:554/stream@1.2", "rtsp://10.0.0.1:554/stream@1.2"),
        ("rtsp://secret@host/1", "rtsp://host/1"),
        ("rtsp://user:secret", "rtsp://user"),
        ("rtsp://host/stream@1", "rtsp://host/stream@1"),
        ("http://cam:8080/s?user=admin&password=secret", "http://cam:8080/s"),
        ("https://host/a/model.pth;jsessionid=secret#sha256=1234", "https://host/a/model.pth"),
        ("https://host/a/access_token=secret/model.pth", "https://host/a/access_token="),
        ("rtsp://10.0.0.7/user=admin&password=s@cre_t/x&channel=1", "rtsp://10.0.0.7/user=admin&password="),
        ("https:/user:secret@host/model.pth", "https:/host/model.pth"),  # as a path
        ("--weights=https://user:secret@host/model.pth", "--weights=https://host/model.pth"),
        ("rtsp://host/\x1b[2J", "rtsp://host/\\x1b[2J"),
        ("camera:0", "camera:0"),
        ("C:/a@b?c.mp4", "C:/a@b?c.mp4"),
    ],
)
def test_secrets_are_not_shown(address, shown):
    assert public_address(address) == shown


def test_addresses_in_messages():
    message = "No answer from rtsp://u:secret@h/1?token=secret; https://h/m.pth?secret failed: 5 of 7 bytes."
    assert without_secrets(message) == "No answer from rtsp://h/1 https://h/m.pth failed: 5 of 7 bytes."


def test_the_name_of_a_file_has_no_secrets():
    assert public_file_name("a b.pth;sig=secret") == "a_b.pth"
    assert public_file_name("token=secret") == "token_"
    assert public_file_name("monkey=5.pth") == "monkey_5.pth"


def test_the_user_is_left_away():
    assert without_user("http://user:p/@ss@10.0.0.7:80/a?b=c@d#e") == "http://10.0.0.7:80/a?b=c@d#e"
    assert without_user("https://host/a@b") == "https://host/a@b"


def test_paths_and_names_are_no_addresses():
    assert not any(map(is_address, ["night.mp4", "/data/a:b", "C:/x", "c:\\x", "camera:0", "tiny_kinetics400"]))


def test_addresses_are_told_apart_by_all_but_passwords():
    same = ["rtsp://u:old@h/1?channel=1&password=a", "rtsp://u:new@h/1?channel=1&password=b"]
    others = ["rtsp://u@h/1?channel=2", "rtsp://u@h2/1?channel=1", "rtsp://u@h/2?channel=1", "rtsp://v@h/1?channel=1"]
    others += ["http://h/live?streamkey=cam1", "http://h/live?streamkey=cam2", "rtsp://h/a@1", "rtsp://h2/a@1"]
    assert identity(same[0]) == identity(same[1])
    assert len({identity(address) for address in [*same, *others]}) == len(others) + 1


def test_a_long_text_takes_no_time_that_grows_with_its_square():
    """A name may be of any length: this one would take minutes."""
    assert without_secrets(500_000 * "a") == 500_000 * "a"


def test_an_address_in_other_letters_has_an_identity():
    """Also where the locale of this process has ASCII alone."""
    assert len(identity("rtsp://h/\u00e9\udcff")) == 8

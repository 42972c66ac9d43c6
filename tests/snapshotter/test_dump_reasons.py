"""What CRIU writes, and what we say about it. The messages are of real runs."""

import pytest

from snapshotter.dump_reasons import explain

CASES = {
    "Can't dump file 9 of that type [600] (anon_inode:[io_uring])": "io_uring",
    "Can't dump file 3 of that type [600] (anon anon_inode:[userfaultfd])": "userfaultfd",
    "fsnotify: Can't dump that handle": "inotify",
    "Can't dump ghost file /x of 2097152 size, increase limit": "deleted file",
    "inet: Connected TCP socket, consider using --tcp-established option.": "established TCP",
    "unix: Dangling connection 4242": "unix socket outside",
    "Can't lookup mount=59 for fd=0 path=/dev/null": "standard stream",
    "Can't lookup mount=59 for fd=7 path=/x": "mount that is not in the container",
    "mnt: 279:./data/net doesn't have a proper root mount": "volume has other file systems mounted",
    "Some file locks are hold by dumping tasks! You can try --file-locks": "file locks",
    "inet: Can't bind inet socket: Cannot assign requested address": "listens on an address",
    "Can't get rlimit 0: Operation not permitted": "CAP_SYS_RESOURCE",
    "File usr/lib/x has bad size 5 (expect 6)": "is not the one it had",
}


def log_of(error):
    return (
        "(00.0) Dumping\n(00.0) Warn  (criu/x.c:1): whatever\n"
        f"(00.1) Error (criu/files-ext.c:96): {error}\n"
        "(00.2) Error (criu/cr-dump.c:9): Dumping FAILED."
    )


@pytest.mark.parametrize(("error", "words"), CASES.items())
def test_each_known_message_becomes_a_plain_sentence(error, words):
    reason = explain(log_of(error))
    assert words in reason.what
    assert reason.advice


def test_an_unknown_message_is_given_as_it_is():
    assert str(explain(log_of("Something new"))) == "CRIU: Something new"


def test_a_log_without_errors_says_so():
    assert "no reason" in str(explain("(00.1) all is well"))


def test_an_error_after_which_criu_goes_on_is_no_reason():
    harmless = "(00.0) Error (criu/rlimit.c:38): rlimit: Can't setup RLIMIT_NOFILE for self: no\n"
    assert str(explain(harmless + log_of("Something new"))) == "CRIU: Something new"

"""The one way in which tests wait: for what they want, with an end, and never for a time."""

import time

_PAUSE_S = 0.005


def wait_until(holds, what="it", timeout_s=20.0):
    """Poll ``holds`` until it gives something true, and return that.

    ``what`` says in the failure what did not come about. It is asked once more at the end: a busy
    machine may have slept through the whole time.
    """
    deadline = time.monotonic() + timeout_s
    while not (found := holds()):
        assert time.monotonic() < deadline, f"{what} did not come about within {timeout_s} s"
        time.sleep(_PAUSE_S)
    return found

"""What a process has given up it cannot get back, and its threads never had it."""

import sys

import pytest

from hotstart.core.run import run

pytestmark = [pytest.mark.kernel]

PROGRAM = """
import os, threading
from hotstart.kernel.privileges import CAP_DAC_OVERRIDE, keep_capabilities
keep_capabilities([CAP_DAC_OVERRIDE])
def show():
    lines = open("/proc/thread-self/status").read().splitlines()
    print(*(line for line in lines if line.startswith(("Cap", "NoNewPrivs"))), sep="|")
show()
thread = threading.Thread(target=show); thread.start(); thread.join()
try:
    os.chroot("/")
except PermissionError:
    print("refused")
os.execv("/bin/grep", ["grep", "CapPrm", "/proc/self/status"])
"""


def test_what_is_dropped_is_gone_for_threads_and_programs_too():
    main, thread, refused, program = run([sys.executable, "-c", PROGRAM]).text.splitlines()
    only = f"{1 << 1:016x}"
    assert f"CapPrm:\t{only}" in main
    assert f"CapEff:\t{only}" in main
    assert f"CapBnd:\t{only}" in main
    assert f"CapInh:\t{0:016x}" in main
    assert "NoNewPrivs:\t1" in main
    assert thread == main
    assert refused == "refused"
    assert program == f"CapPrm:\t{only}", "root gets from a program what the bounding set leaves"


def test_a_process_with_threads_is_refused():
    program = (
        "import threading\nfrom hotstart.kernel.privileges import keep_capabilities\n"
        "e = threading.Event(); t = threading.Thread(target=e.wait); t.start()\n"
        "try: keep_capabilities([])\nexcept RuntimeError: print('refused')\nfinally: e.set()\n"
    )
    assert run([sys.executable, "-c", program]).text.strip() == "refused"

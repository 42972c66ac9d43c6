"""A program that traces another, as a debugger does."""

import contextlib
import subprocess
import sys

_TRACE = """import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
print(libc.ptrace(0x4206, int(sys.argv[1]), 0, 0), flush=True)  # PTRACE_SEIZE
sys.stdin.read()
"""


@contextlib.contextmanager
def program(*argv):
    """A program that ends when its standard input does."""
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as process:
        yield process
        process.stdin.close()


@contextlib.contextmanager
def tracing(pid):
    """Trace a process; yields the tracer's number."""
    with program(sys.executable, "-c", _TRACE, str(pid)) as tracer:
        assert tracer.stdout.readline() == "0\n"
        yield tracer.pid

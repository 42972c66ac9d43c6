"""``hotstart``: the table of commands, and the one place where errors become exit codes.

Nothing below imports a command before it is called. Signals: an interrupt cancels the running
call, which undoes what it has begun, and ends with 130.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import click

from cli.command import Entry, LazyGroup, global_flags
from cli.exit_codes import BUG, INTERRUPTED, OK, USAGE
from cli.output import report_error, say, show_error
from cli.settings import Settings
from hotstart.core.errors import HotstartError

COMMANDS = {
    "build": Entry("cli.build_cmd", "build", "Build an image from a directory or an archive."),
    "images": Entry("cli.image_cmd", "images", "List images and snapshots of the store."),
    "inspect": Entry("cli.inspect_cmd", "inspect", "Show what an image or snapshot holds."),
    "verify": Entry(
        "cli.verify_cmd", "verify", "Read and check what references reach; repair the cache."
    ),
    "pull": Entry("cli.pull_cmd", "pull", "Fetch everything of a reference into the cache."),
    "warm": Entry("cli.pull_cmd", "warm", "Fetch what recorded starts of a reference touch."),
    "pin": Entry("cli.pin_cmd", "pin", "Keep an image in the cache whatever its quota."),
    "unpin": Entry("cli.pin_cmd", "unpin", "Let an image leave the cache again."),
    "rm": Entry("cli.remove_cmd", "remove", "Remove a reference, or an ended container."),
    "gc": Entry("cli.gc_cmd", "collect", "Remove from the store what nothing needs."),
    "trace": Entry("cli.trace_cmd", "trace", "Show what is recorded for a reference."),
    "mount": Entry("cli.mount_cmd", "mount", "Mount an image or snapshot at a directory."),
    "umount": Entry("cli.mount_cmd", "umount", "Unmount a directory."),
    "mounts": Entry("cli.mount_cmd", "mounts", "List mounted images."),
    "run": Entry("cli.run_cmd", "run", "Start a container from an image."),
    "ps": Entry("cli.container_cmd", "ps", "List containers."),
    "logs": Entry("cli.container_cmd", "logs", "Show what a container wrote."),
    "exec": Entry("cli.exec_cmd", "execute", "Run a program in a container."),
    "stop": Entry("cli.container_cmd", "stop", "End a container."),
    "wait": Entry("cli.container_cmd", "wait", "Wait until a container has ended."),
    "snapshot": Entry("cli.snapshot_cmd", "snapshot", "Capture a running container."),
    "restore": Entry("cli.run_cmd", "restore", "Start a container from a snapshot."),
    "bench": Entry("cli.bench_cmd", "bench", "Measure a scenario."),
    "agent": Entry("cli.agent_cmd", "agent", "Run, start, stop or ask the node agent."),
    "doctor": Entry("cli.doctor_cmd", "doctor", "Tell what this host can do, and why not."),
}


@click.command(
    cls=LazyGroup,
    entries=COMMANDS,
    params=[*global_flags(env=True)],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="hotstart", prog_name="hotstart")
def hotstart_command() -> None:
    """Containers that start hot: lazy images, and snapshots restored in a tenth of a second."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command line and exit with a code of the table."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    settings = Settings()
    try:
        status = run(words, settings)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has left: nothing to say, and nothing to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = BUG
    sys.exit(status)


def run(words: Sequence[str], settings: Settings) -> int:
    """Run one command line and return its exit code."""
    try:
        result = hotstart_command.main(
            list(words), prog_name="hotstart", standalone_mode=False, obj=settings
        )
    except click.UsageError as err:
        return _usage(err, as_json=settings.json)
    except (click.Abort, KeyboardInterrupt):
        say("hotstart: interrupted")
        return INTERRUPTED
    except HotstartError as err:
        return report_error(err, as_json=settings.json)
    except BrokenPipeError:
        raise
    except Exception as err:  # a bug of ours: shown whole
        traceback.print_exc()
        return report_error(err, as_json=settings.json)
    return result if isinstance(result, int) else OK


def _usage(error: click.UsageError, *, as_json: bool) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        say(error.format_message())
        return USAGE
    where = error.ctx.command_path if error.ctx is not None else "hotstart"
    say(f"hotstart: {error.format_message()} (see {where} --help)")
    if as_json:
        message = error.format_message()
        kind = type(error).__name__
        show_error(code=USAGE, kind="usage", error_class=kind, message=message, hint="")
    return USAGE


if __name__ == "__main__":
    main()

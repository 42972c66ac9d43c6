"""One table of exit codes: distinct, documented, and the nearest class decides."""

from pathlib import Path

from agent.status import ContainerNotReady
from cli.exit_codes import TABLE, row_of
from hotstart.core import errors
from hotstart.core.run import CommandFailed
from hotstart.store.format_errors import FormatVersionUnknown


def test_codes_are_distinct():
    assert len({row.code for row in TABLE}) == len(TABLE)


def test_the_nearest_class_decides():
    assert row_of(errors.NotFound("x")).code == 101
    assert row_of(errors.UserError("x")).code == 100
    assert row_of(errors.Unsupported("x")).code == 105
    assert row_of(FormatVersionUnknown("manifest", 9, (1,))).code == 104
    assert row_of(ContainerNotReady("x")).code == 106
    assert row_of(CommandFailed(["runc"], 1, "")).code == 107
    assert row_of(ZeroDivisionError()).code == 1


def test_the_manual_lists_every_code():
    manual = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    for row in TABLE:
        assert f"| {row.code} | {row.kind} | {row.meaning} |" in manual

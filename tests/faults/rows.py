"""The rows of docs/faults.md, declared where each is tested.

``fault_row("what fails", "what the reader sees")`` is the mark of the test, or of the parameter of
one, that holds the row. test_fault_table.py finds every such call in tests/ by reading the source
(both texts must be literals there) and compares them with the table, file by file.
"""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def fault_row(fault, sees):
    """Return the mark that declares a row."""
    return pytest.mark.fault(fault, sees)


def declared(root=TESTS):
    """Return (fault, what the reader sees, test file) of every declaration below ``root``."""
    return [
        (*(argument.value for argument in call.args), f"tests/{path.relative_to(root)}")
        for path in sorted(root.rglob("test_*.py"))
        for call in _calls(path.read_text())
    ]


def _calls(text):
    if "fault_row(" not in text:
        return
    for call in ast.walk(ast.parse(text)):
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "fault_row":
            yield call


def tabled(text):
    """Return the rows of the table in docs/faults.md, as ``declared`` does."""
    rows = [
        tuple(cell.strip() for cell in line.strip().strip("|").split("|"))
        for line in text.splitlines()
        if line.startswith("|")
    ]
    return [(fault, sees, test.strip("`")) for fault, sees, test in rows[2:]]

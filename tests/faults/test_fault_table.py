"""docs/faults.md and the tests say the same of every fault."""

from pathlib import Path

from tests.faults.rows import declared, tabled

TABLE = Path(__file__).parents[2] / "docs" / "faults.md"


def test_every_row_of_the_fault_table_is_held_by_a_test_and_every_tested_fault_is_a_row():
    rows = declared()
    assert len(rows) == len(set(rows)) > 10
    assert sorted(tabled(TABLE.read_text())) == sorted(rows)


def test_a_declaration_is_found_wherever_it_stands(tmp_path):
    (tmp_path / "test_x.py").write_text(
        '@fault_row("a", "b")\ndef test_x(): ...\n'
        'CASES = [pytest.param(1, marks=fault_row("c", "d"))]\n'
    )
    assert declared(tmp_path) == [("a", "b", "tests/test_x.py"), ("c", "d", "tests/test_x.py")]

"""SPECIFICATION.md: promises are numbered in order, and what each is held by exists."""

import ast
import functools
import re
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
TEXT = (CHECKOUT / "SPECIFICATION.md").read_text(encoding="utf-8")
_FIGURES = re.compile(r"<!-- figures -->.*?<!-- end of figures -->", re.DOTALL)
_NUMBER = re.compile(r"(\d+)\. ")
_LINK = re.compile(r"`((?:tests/)?[\w/]+\.py(?:::\w+)?|test_\w+)`")
_OTHERWISE = re.compile(r"\bBenchmark\b|\*\[pending\]\*")


def promises(text):
    """Return every line of the sections but headings and the benchmark's own table."""
    sections = _FIGURES.sub("", text).partition("\n## ")[2].splitlines()[1:]
    return [line for line in sections if line.strip() and not line.startswith("## ")]


def misnumbered(text):
    """Return the promises whose number is not the one after the number above."""
    numbered = enumerate(promises(text), 1)
    found = [(number, line, _NUMBER.match(line)) for number, line in numbered]
    return [line for number, line, is_ in found if not is_ or int(is_[1]) != number]


def dangling(text):
    """Return the links to tests that are not there, and the promises that nothing holds."""
    functions = _test_functions()
    unheld = [
        line for line in promises(text) if not (_LINK.search(line) or _OTHERWISE.search(line))
    ]
    return [link for link in _LINK.findall(text) if not _is_there(link, functions)] + unheld


def _is_there(link, functions):
    path, _, name = link.rpartition("::")
    if link.endswith(".py"):
        return bool(functions.get(link))
    return any(name in names for module, names in functions.items() if path in (module, ""))


@functools.cache
def _test_functions():
    modules = (CHECKOUT / "tests").rglob("*.py")
    return {path.relative_to(CHECKOUT).as_posix(): _named(path) for path in modules}


def _named(path: Path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return {node.name for node in functions if node.name.startswith("test_")}


def test_promises_are_numbered_one_by_one_in_order():
    assert len(promises(TEXT)) > 40
    assert misnumbered(TEXT) == []


def test_every_promise_links_tests_that_exist_or_says_what_holds_it():
    assert dangling(TEXT) == []


def test_what_is_wrong_in_a_list_of_promises_is_found():
    good = "# P\n\n## A\n\n1. One. `tests/test_specification.py`\n2. Two. *[pending]*\n"
    assert misnumbered(good) == dangling(good) == []
    assert misnumbered(f"{good}4. Four. Benchmark.\n") == ["4. Four. Benchmark."]
    assert misnumbered(f"{good}\nThree. Benchmark.\n") == ["Three. Benchmark."]
    assert dangling(f"{good}3. Three.\n") == ["3. Three."]
    assert dangling(f"{good}3. Three. `test_of_nothing`\n") == ["test_of_nothing"]
    gone = "tests/test_specification.py::test_of_nothing"
    assert dangling(f"{good}3. Three. `{gone}`\n") == [gone]
    assert dangling(f"{good}3. Three. `tests/no.py`\n") == ["tests/no.py"]

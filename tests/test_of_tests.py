"""Every test claims something, and none waits for a time. Read from the source, like the rules."""

import ast
import functools

from tests.test_architecture import Source, refuse, sources

CLAIMS = {"pytest.raises", "pytest.fail", "run_state_machine_as_test"}
POLLS = {"tests/waiting.py", "tests/leftovers.py"}
"""What waits for a condition with an end, and sleeps between two looks at it."""


def claimless(files):
    """Return the tests that neither assert nor call a function of tests/ that does."""
    claiming = _claiming([node for source in files for node in functions(source)])
    return [
        f"{source.name}:{node.lineno}: {node.name} claims nothing"
        for source in files
        for node in functions(source)
        if node.name.startswith("test_") and not _claims(node, claiming)
    ]


def functions(source):
    return [node for node in source.nodes if isinstance(node, ast.FunctionDef)]


def _claiming(nodes):
    """Return the names of the functions that assert, themselves or by what they call."""
    names = set()
    while more := {node.name for node in nodes if _claims(node, names)} - names:
        names |= more
    return names


def _claims(function, claiming):
    asserts, called = _content(function)
    return asserts or bool(called & (CLAIMS | claiming))


@functools.cache
def _content(function):
    """Return whether a function asserts, and the plain names that it calls."""
    nodes = list(ast.walk(function))
    called = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
    return any(isinstance(node, ast.Assert) for node in nodes), called


def unexplained_sleeps(files):
    """Return the sleeps whose line has no comment that says what they stand for."""
    return [
        f"{source.name}:{node.lineno}: wait_until, or say what the sleep stands for"
        for source in files
        if source.name not in POLLS
        for node in source.nodes
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("time.sleep", "threading.Event().wait")
        and "  # " not in source.text.splitlines()[node.lineno - 1]
    ]


def test_every_test_claims_something():
    refuse(claimless(sources("tests")))


def test_tests_sleep_only_where_the_sleep_is_what_is_tested():
    refuse(unexplained_sleeps(sources("tests")))


def test_what_claims_nothing_and_what_merely_sleeps_is_found():
    held, bare, asleep = (
        _source_of(text)
        for text in (
            "def check():\n    assert 1\n\ndef test_a():\n    check()\n",
            "def test_b():\n    open('x')\n",
            "time.sleep(1)\ntime.sleep(1)  # a slow reader\n",
        )
    )
    assert claimless([held, bare]) == ["x.py:1: test_b claims nothing"]
    assert [line.split(":")[1] for line in unexplained_sleeps([held, asleep])] == ["1"]


def _source_of(text):
    source = Source.__new__(Source)
    source.name, source.text, source.tree = "x.py", text, ast.parse(text)
    return source

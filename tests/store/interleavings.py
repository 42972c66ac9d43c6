"""Runs programs that share a store in memory through every interleaving of their operations.

Each operation on the store is a step; between steps a program does nothing that others see. A
program is a function of the answers it gets, so two schedules that lead to the same store and the
same answers have the same future: it is looked at once. At every step any program may also crash:
then nothing of it is done any more. A program that sleeps goes on when those it waits for have
ended; if one of them has crashed, the store's clock then stands beyond its time.

A collector may also *stall*: the answer to one step comes when others have taken it for dead.
"""

import itertools
import random
import threading
from contextlib import contextmanager

from hotstart.store.leases import COLLECTOR, COLLECTOR_NS, live
from hotstart.store.stack import Store
from tests.fakes.memory_store import memory_store

START_NS = 10**18
_READS = ("read", "size", "has", "digests", "entries", "get", "names")
_OPERATIONS = {
    "blobs": ("read", "size", "has", "put", "add", "remove", "digests", "entries"),
    "references": ("get", "swap", "remove", "names"),
    "leases": ("write", "read", "entries", "remove"),
}


class Crash(BaseException):
    """The program is no more."""


class Inline:
    """In place of a pool of one thread: the same calls in the same order, without the thread."""

    def __init__(self, *_arguments):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        pass

    def map(self, *arguments):
        return map(*arguments)


def _closed():
    """A gate that ``release`` opens for one ``acquire``."""
    gate = threading.Lock()
    gate.acquire()
    return gate


class Program:
    """One program: a thread that stops before each operation."""

    def __init__(self, name, body):
        self.name = name
        self.body = body
        self.at = None
        self.answers = []
        self.is_done = False
        self.is_crashed = False
        self.is_stalling = False
        self.stalled_at = None
        self.is_free = False
        self.has_been_free = False
        self.names = 0
        self.error = None
        self.go = _closed()


class Run:
    """One execution, from the start; ``choose`` says who takes the next step."""

    def __init__(self, prepare, bodies):
        self.now_ns = START_NS
        self.model = memory_store(lambda: self.now_ns)
        prepare(self.model)
        self.programs = [Program(name, body) for name, body in bodies.items()]
        self.current = None
        self.arrived = _closed()
        self.store = Store(
            self.model.url,
            *(self._gated(getattr(self.model, part), part) for part in _OPERATIONS),
        )

    def new_name(self, kind):
        """In place of random names; which one does not depend on what others do."""
        self.current.names += 1
        return f"{kind}{self.current.name}-{self.current.names}"

    def sleep(self, _delay_s):
        """In place of waiting."""
        self._gate("sleep")
        if any(program.is_crashed for program in self.programs):
            self.now_ns += COLLECTOR_NS + 1

    @contextmanager
    def at_once(self, *, free=True):
        """Let the running program do all of this between two steps; with ``free`` False not."""
        program, before = self.current, self.current.is_free
        program.is_free, program.has_been_free = free, True
        try:
            yield
        finally:
            program.is_free = before

    def start(self):
        """Bring every program to its first operation."""
        for program in self.programs:
            self.current = program
            threading.Thread(target=self._live, args=(program,), daemon=True).start()
            self.arrived.acquire()

    def choices(self, crashes, stalls=0):
        """Who may go on, who may crash, and which collector may stall, now."""
        alive = [program for program in self.programs if not program.is_done]
        others_over = {
            program.name: all(p.is_done for p in self.programs if p.name.startswith("collector"))
            for program in alive
        }
        is_dead = any(p.stalled_at is not None for p in self.programs) and not live(
            self.model.leases.entries(), COLLECTOR, self.now_ns
        )
        able = [p for p in alive if p.at != "sleep" or others_over[p.name] or is_dead]
        steps = [(p.name, "step") for p in able]
        if sum(p.is_crashed for p in self.programs) < crashes:
            steps += [(p.name, "crash") for p in alive]
        if sum(p.stalled_at is not None for p in self.programs) < stalls:
            steps += [(p.name, "stall") for p in alive if p.name.startswith("collector")]
        return steps

    def commute(self, one, other):
        """Tell whether two choices lead to the same state in either order.

        So do two steps that only read, or that look at different parts of the store; and the crash
        of one program and a step of another, unless that one sleeps.
        """
        programs = {program.name: program for program in self.programs}
        one_at, other_at = (programs[name].at for name, _ in (one, other))
        if any(programs[name].has_been_free for name, _ in (one, other)):
            return False  # one step of it may be many operations
        if one[0] == other[0] or "sleep" in (one_at, other_at):
            return False
        if sorted((one[1], other[1])) == ["crash", "step"]:
            return True
        (part, word), (other_part, other_word) = (
            at.partition("(")[0].split(".") for at in (one_at, other_at)
        )
        is_apart = part != other_part or (word in _READS and other_word in _READS)
        return one[1] == other[1] == "step" and is_apart

    def take(self, choice):
        """Let one program take one step, which may be long, or crash."""
        name, what = choice
        program = next(p for p in self.programs if p.name == name)
        program.is_crashed = program.is_crashed or what == "crash"
        self.current = program
        program.is_stalling = what == "stall"
        program.go.release()
        self.arrived.acquire()

    def state(self):
        """What the future depends on."""
        blobs, references, leases = (getattr(self.model, part) for part in _OPERATIONS)
        return (
            self.now_ns,
            frozenset(blobs.times.items()) if blobs.contents else None,
            frozenset(blobs.contents),
            frozenset((str(n), d) for n, d in references._documents.items()),
            frozenset(leases.objects.items()),
            tuple(
                (p.at, p.is_done, p.is_crashed, p.stalled_at, tuple(p.answers))
                for p in self.programs
            ),
        )

    def end(self):
        """Let nothing of it run on."""
        while any(not program.is_done for program in self.programs):
            self.take(next((p.name, "crash") for p in self.programs if not p.is_done))

    def _live(self, program):
        try:
            program.body(self.store)
        except Crash:
            pass
        except Exception as err:
            program.error = err
        program.is_done = True
        self.arrived.release()

    def _gate(self, operation):
        program = self.current
        if not program.is_crashed and not program.is_free:
            program.at = operation
            self.arrived.release()
            program.go.acquire()
        if program.is_crashed:
            raise Crash
        return program

    def _answered(self, program, answer):
        """Before the program goes on; one that stalls gets its answer only then."""
        program.answers.append(repr(answer))
        if program.is_stalling:
            program.is_stalling, program.stalled_at = False, len(program.answers)
            self.now_ns += COLLECTOR_NS + 1

    def _gated(self, part, name):

        class Gated:
            url = part.url
            run = self

        for operation in _OPERATIONS[name]:
            setattr(Gated, operation, staticmethod(_step(self, part, name, operation)))
        return Gated()


def _step(run, part, name, operation):
    def call(*arguments, **options):
        program = run._gate(f"{name}.{operation}{arguments}")
        try:
            answer = getattr(part, operation)(*arguments, **options)
        except Exception as err:
            run._answered(program, err)
            raise
        if operation in ("entries", "names", "digests"):
            answer = list(answer)
        run._answered(program, answer)
        return iter(answer) if operation in ("names", "digests") else answer

    return call


def stall_anywhere(new_run, check):
    """Let the collector stall at each of its steps, and all others do all they can meanwhile.

    The others begin when the collector has stalled, or they would have waited for it. Check each
    end. Returns at how many steps it could stall.
    """
    for number in itertools.count():
        run = new_run()
        run.start()
        path = [("collector", "step")] * number + [("collector", "stall")]
        for choice in path:
            if choice not in run.choices(0, stalls=1):
                run.end()
                return number
            run.take(choice)
        while steps := run.choices(0):
            steps.sort(key=lambda step: step[0] == "collector")
            path.append(steps[0])
            run.take(steps[0])
        check(run, path)
    raise AssertionError


def explore(new_run, check, *, crashes=0, at_most=None):
    """Go through every interleaving; ``check`` each end. Returns how many states there are.

    Of two choices that commute (Run.commute) the second is not followed by the first: where that
    leads the other order leads too. States are as many as without, schedules fewer. ``at_most``
    takes a sample of so many schedules, the same one each time.
    """
    pick = random.Random(1)
    runs = 0
    seen = set()
    pending = [([], [])]
    while pending and runs != at_most:
        runs += 1
        prefix, skipped = pending.pop(pick.randrange(len(pending)) if at_most else -1)
        run = new_run()
        run.start()
        for choice in prefix:
            run.take(choice)
        path = list(prefix)
        while True:
            state = run.state()
            if state in seen:
                run.end()
                break
            seen.add(state)
            choices = run.choices(crashes)
            if not any(what == "step" for _, what in choices):
                assert all(p.is_done for p in run.programs), f"nobody goes on after {path}"
                check(run, path)
                break
            nexts = [
                (choice, [early for early in choices[:number] if run.commute(early, choice)])
                for number, choice in enumerate(choices)
                if choice not in skipped
            ]
            if not nexts:
                run.end()
                break
            (first, skipped), *rest = nexts
            pending += [([*path, choice], skips) for choice, skips in rest]
            path.append(first)
            run.take(first)
    return len(seen)

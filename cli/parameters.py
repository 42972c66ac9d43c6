"""Option types and the options that ``run`` and ``restore`` share; all parse into a ContainerSpec.

A text that cannot be what it is for is a usage error; whether a port is free or a path exists is
the agent's to find out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from hotstart.core.errors import UserError
from runtime.container_spec import (
    ContainerSpec,
    PortMapping,
    Volume,
    generate_name,
    parse_memory,
    parse_variable,
)

Value = TypeVar("Value")
Function = TypeVar("Function", bound=Callable[..., Any])


class Parsed(click.ParamType[Value]):
    """An option type made of a parser that raises UserError."""

    def __init__(self, name: str, parse: Callable[[str], Value]) -> None:
        self.name = name
        self._parse = parse

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Value:
        """Parse a text. Anything else would be a default, and no default is needed."""
        try:
            return self._parse(str(value))
        except UserError as err:
            self.fail(f"{err}; {err.hint}" if err.hint else str(err), param, ctx)


class Finite(click.FloatRange):
    """A number within limits that is one: neither endless nor none."""

    def convert(
        self,
        value: Any,  # noqa: ANN401  # click's own signature
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> float:
        """Parse a text, or take a number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a number that can be counted to", param, ctx)
        return number


def _memory(text: str) -> int:
    """Parse an amount of memory; the kernel counts it in 63 bits."""
    size_bytes = parse_memory(text)
    if size_bytes >= 1 << 63:
        raise UserError(
            f"no machine has {text[:40]} of memory", "write 512m or 2g, or leave it out"
        )
    return size_bytes


def _volume(text: str) -> Volume:
    """Parse a volume; a relative host path means the caller's directory."""
    host, colon, rest = text.partition(":")
    return Volume.parse(f"{Path(host).absolute() if host else ''}{colon}{rest}")


def _ready(text: str) -> str:
    """Check the kind of a readiness probe; the agent knows the rest."""
    if text.startswith(("http://", "tcp:", "exec:")):
        return text
    raise UserError(f"not a readiness probe: {text[:80]!r}", "write http://…, tcp:PORT or exec:CMD")


env_option = click.option(
    "--env",
    multiple=True,
    metavar="K=V",
    type=Parsed("variable", parse_variable),
    help="Set a variable (repeats).",
)

_MOST_CPUS = 1 << 20
"""What a snapshot's configuration takes too."""

_OPTIONS = (
    click.option("--name", metavar="N", help="Name of the container."),
    click.option("-d", "--detach", is_flag=True, help="Return once it is ready; print its name."),
    click.option("-p", "--publish", "ports", multiple=True, metavar="[ADDR:]HOST:CONTAINER",
                 type=Parsed("port", PortMapping.parse), help="Publish a TCP port (repeats)."),
    click.option("-v", "--volume", "volumes", multiple=True, metavar="HOST:CONTAINER[:ro]",
                 type=Parsed("volume", _volume), help="Bind a directory or file (repeats)."),
    click.option("--weights", multiple=True, metavar="URL:DIR",
                 type=Parsed("weights", Volume.parse_weights),
                 help="Mount s3://bucket/prefix at DIR, read-only (repeats)."),
    click.option("--ready", metavar="PROBE", type=Parsed("probe", _ready),
                 help="http://…, tcp:PORT or exec:CMD, asked inside the container."),
    click.option("--ready-timeout", "ready_timeout_s", type=Finite(min=0.001),
                 metavar="SECONDS", default=60.0, show_default=True,
                 help="How long it may take to become ready."),
    click.option("--memory", "memory_bytes", metavar="M", type=Parsed("memory", _memory),
                 help="Memory limit, for example 512m or 2g."),
    click.option("--cpus", type=Finite(min=0.01, max=_MOST_CPUS), metavar="C",
                 help="Processor cores, may be a fraction."),
    click.option("--no-background-fill", is_flag=True,
                 help="Do not fetch the rest after it is ready."),
)  # fmt: skip


def container_options(function: Function) -> Function:
    """Add the options that every start has."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@dataclass(frozen=True, slots=True)
class Wish:
    """The values of the shared options."""

    spec: ContainerSpec
    detach: bool
    background_fill: bool


def wish_of(values: dict[str, Any]) -> Wish:
    """Take the shared options out of ``values``; what is left belongs to the command."""
    detach = bool(values.pop("detach"))
    background_fill = not values.pop("no_background_fill")
    shared = ("ports", "volumes", "ready", "ready_timeout_s", "memory_bytes", "cpus")
    taken = {name: values.pop(name) for name in shared}
    taken["volumes"] = (*taken["volumes"], *values.pop("weights"))
    name = values.pop("name") or generate_name()
    return Wish(ContainerSpec(name=name, **taken), detach, background_fill)


def with_process(wish: Wish, **process: object) -> ContainerSpec:
    """Return the spec with what only ``run`` decides: argv, env, workdir, user, hostname."""
    return replace(wish.spec, **process)  # type: ignore[arg-type]  # names are checked by replace

"""How a command is declared: click commands that also take the global flags, and a lazy group.

The group knows each command's module and its one-line help, so that ``--help`` imports none of
them and a command imports only what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

import click

from cli.settings import Settings

Parameter = TypeVar("Parameter", bound=click.Parameter)


def _remember(name: str) -> Callable[[click.Context, click.Parameter, object], object]:
    """Return a callback that writes a given flag into the settings; an absent one changes none."""

    def callback(context: click.Context, _parameter: click.Parameter, value: object) -> object:
        settings = context.ensure_object(Settings)
        if value not in (None, False):
            setattr(settings, name, value)
        return value

    return callback


def global_flags(*, env: bool, json_flag: bool = True) -> list[click.Option]:
    """Return the global flags; ``env`` also lets the environment set them."""
    flags = [
        click.Option(
            ["--store"],
            metavar="URL",
            expose_value=False,
            envvar="HOTSTART_STORE" if env else None,
            callback=_remember("store"),
            help="Store: file:///DIR or s3://BUCKET/PREFIX  [default: ROOT/store]",
        ),
        click.Option(
            ["--root"],
            metavar="DIR",
            expose_value=False,
            envvar="HOTSTART_ROOT" if env else None,
            callback=_remember("root_dir"),
            help="State and cache of one agent  [default: /var/lib/hotstart]",
        ),
    ]
    if json_flag:
        flags.append(
            click.Option(
                ["--json"],
                is_flag=True,
                expose_value=False,
                callback=_remember("json"),
                help="Print one JSON document.",
            )
        )
    return flags


class HotstartCommand(click.Command):
    """A command that takes the global flags too."""

    json_flag = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  # click's own signature
        super().__init__(*args, **kwargs)
        self.params.extend(global_flags(env=False, json_flag=self.json_flag))


class OwnJsonCommand(HotstartCommand):
    """A command whose ``--json`` is its own (bench: a file)."""

    json_flag = False


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a command lives and what it does, in one line."""

    module: str
    attribute: str
    help: str


class LazyGroup(click.Group):
    """A group that imports a command when it is called, and none to list them."""

    def __init__(self, *, entries: Mapping[str, Entry], **attributes: Any) -> None:  # noqa: ANN401  # click's own signature
        super().__init__(**attributes)
        self._entries = entries

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of the table."""
        return list(self._entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        entry = self._entries.get(cmd_name)
        if entry is None:
            return None
        found = getattr(import_module(entry.module), entry.attribute)
        assert isinstance(found, click.Command)  # noqa: S101  # a row of the table is wrong
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the nearest command when the given one is unknown."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as err:
            raise click.UsageError(
                f"no command {args[0]!r}{_nearest(args[0], self._entries)}"
            ) from err

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands without importing one."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in self._entries.items()])


def _nearest(word: str, names: Mapping[str, Entry]) -> str:
    from difflib import get_close_matches  # only for a mistyped command

    close = get_close_matches(word, list(names), 1)
    return f", did you mean {close[0]!r}?" if close else ""

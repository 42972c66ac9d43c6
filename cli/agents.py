"""How commands reach the agent of the root: start it when needed, and say so once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from agent.client import AgentClient
from agent.launch import NotRoot, RootUnusable, ensure
from agent.values import STORE_VARIABLE, FillerName
from cli.output import say
from cli.settings import Settings
from hotstart.core.errors import NotFound


@contextmanager
def open_agent(settings: Settings, *, filler: FillerName = "auto") -> Iterator[AgentClient]:
    """Yield a client of the root's agent, started if none runs. Raises NotRoot."""
    named = {STORE_VARIABLE: settings.store_url} if settings.store else {}
    environment = {**os.environ, **named}
    client, started = ensure(settings.root, filler=filler, environment=environment)
    with client:
        if started:
            say(f"hotstart: started the agent of {settings.root}; end it with: hotstart agent stop")
        yield client


@contextmanager
def open_known_agent(settings: Settings, container: str) -> Iterator[AgentClient]:
    """As ``open_agent``, for a container that must exist: no agent is started for a fresh root."""
    if not has_state(settings):
        raise NotFound(f"no container {container} below {settings.root}", "see hotstart ps")
    with open_agent(settings) as client:
        yield client


def has_state(settings: Settings) -> bool:
    """Tell whether an agent has ever run for this root.

    Raises NotRoot if that may not be seen, RootUnusable if the root is no directory.
    """
    try:
        if settings.root.exists() and not settings.root.is_dir():
            raise RootUnusable(f"{settings.root}: not a directory", "choose another --root")
        return (settings.root / "state.db").exists()
    except PermissionError as err:
        raise NotRoot(f"looking into {settings.root}") from err

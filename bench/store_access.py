"""How a process reaches a store: its URL, and the environment that holds the credentials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoreAccess:
    """A store, and the whole environment in which a process may use it."""

    url: str
    env: Mapping[str, str]

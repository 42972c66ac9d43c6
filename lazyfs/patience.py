"""How long a reader waits for a store that is away: the setting HOTSTART_PATIENCE, in seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping

from hotstart.core.errors import UserError
from lazyfs.fill_engine import PATIENCE_S

VARIABLE = "HOTSTART_PATIENCE"


def patience_s(environment: Mapping[str, str]) -> float:
    """Return the setting, or its default. Raises UserError for what is no number of seconds."""
    text = environment.get(VARIABLE, "")
    if not text:
        return PATIENCE_S
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (0.0 <= seconds < math.inf):
        raise UserError(
            f"{VARIABLE}={text[:40]!r} is not a number of seconds", "write for example 60"
        )
    return seconds

"""Prefetch plans as values, and their JSON form on the control socket.

{"kind": "all"}                                       every absent chunk
{"kind": "trace", "trace": base64, "budget": bytes}   a recorded trace, in its order; budget or null
{"kind": "bundle", "bundle": "sha256:...", "index": base64, "store": URL}
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any, TypeAlias

from hotstart.core.digest import Digest
from hotstart.core.errors import UserError
from hotstart.store.bundle import BundleIndex
from hotstart.store.trace import Trace


@dataclass(frozen=True, slots=True)
class EverythingPlan:
    """Fetch every absent chunk, in device order."""


@dataclass(frozen=True, slots=True)
class TracePlan:
    """Fetch what the trace touched, in its order, until ``budget_bytes`` (stored) are asked for."""

    trace: Trace
    budget_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class BundlePlan:
    """Stream a start bundle out of one store."""

    bundle: Digest
    index: BundleIndex
    store_url: str


Plan: TypeAlias = EverythingPlan | TracePlan | BundlePlan


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """Return the form for the control socket."""
    match plan:
        case EverythingPlan():
            return {"kind": "all"}
        case TracePlan(trace, budget):
            return {"kind": "trace", "trace": _text(trace.encode()), "budget": budget}
        case BundlePlan(bundle, index, store_url):
            encoded = _text(index.encode())
            return {"kind": "bundle", "bundle": str(bundle), "index": encoded, "store": store_url}


def plan_from_json(value: dict[str, Any]) -> Plan:
    """Read ``plan_to_json``'s form. Raises UserError, or what the formats raise."""
    try:
        match value["kind"]:
            case "all":
                return EverythingPlan()
            case "trace":
                budget = value.get("budget")
                trace = Trace.decode(_bytes(value["trace"]))
                return TracePlan(trace, None if budget is None else int(budget))
            case "bundle":
                index = BundleIndex.decode(_bytes(value["index"]))
                return BundlePlan(Digest.parse(value["bundle"]), index, value["store"])
            case other:
                raise UserError(f"unknown prefetch plan {other!r}", "all, trace or bundle")
    except (KeyError, TypeError, binascii.Error) as err:
        raise UserError(f"not a prefetch plan: {err!r}") from err


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)

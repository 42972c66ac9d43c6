"""Weights from any bucket: what lies below a prefix, as something to mount. Nothing is copied.

Composes the listing (store), the bootstrap (image_builder) and the device (lazyfs). Keys become
paths; one that no file can have, or that another key makes a directory, is left out and named.
Files belong to root, have mode 0444 and the time of the object; nothing is executable.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hotstart.core.digest import Digest
from hotstart.core.errors import NotFound, UserError
from hotstart.core.span import PAGE, Span
from hotstart.store import media_types, zstd_frame
from hotstart.store.descriptor import Descriptor
from hotstart.store.layers import bootstrap_descriptor
from hotstart.store.object_list import ObjectList
from hotstart.store.pinned_object import ListedObject
from image_builder.bootstrap import BootstrapDevice, write_bootstrap
from image_builder.placement import FilePlacement, place
from image_builder.tree import Node, Tree, directory
from lazyfs.cache import Cache
from lazyfs.spec import DeviceSpec, MountSpec
from runtime.container_spec import WEIGHTS_SCHEME

READ_AHEAD_KIB = 1024
"""Weights are read in sequence, by large reads; a page touched through mmap brings as much."""
_MAX_NAME = 255
_MOST_TOLD = 10


class NoObjects(NotFound):
    """Nothing that could be mounted lies below the prefix."""

    def __init__(self, url: str, skipped: Sequence[str]) -> None:
        super().__init__(
            f"{url}: there are no objects below this prefix"
            + "".join(f"; {sentence}" for sentence in skipped[:1]),
            "the prefix is a directory of keys, as in s3://bucket/models/llama",
        )
        self.url = url


@dataclass(frozen=True, slots=True)
class Weights:
    """What is mounted of a bucket; ``skipped`` says, a sentence a key, what is not."""

    spec: MountSpec
    skipped: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Absent:
    """Content that is never read here: it lies in the bucket. See image_builder's Content."""

    size: int

    def data_spans(self) -> Sequence[Span]:
        return (Span(0, self.size),) if self.size else ()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if buffer:
            raise UserError(f"an object is not read while it is mounted ({offset})")


@dataclass(slots=True)
class _Draft:
    """A tree that grows by keys."""

    tree: Tree = field(default_factory=Tree)
    files: dict[str, Node] = field(default_factory=dict)
    listed: dict[str, ListedObject] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


def tell_skipped(weights: Weights, tell: Callable[[str], None]) -> None:
    """Say which keys are left out: the first of them, and how many there are."""
    for sentence in weights.skipped[:_MOST_TOLD]:
        tell(sentence)
    if len(weights.skipped) > _MOST_TOLD:
        tell(f"{len(weights.skipped)} objects of {weights.spec.store_url} are left out in all")


def is_weights_url(text: str) -> bool:
    """Tell a bucket's URL from a reference."""
    return text.startswith(WEIGHTS_SCHEME)


def load_weights(url: str, cache: Cache) -> Weights:
    """List a bucket and put what a mount needs into the cache.

    Raises BucketUrlInvalid, NoObjects, BucketMissing, StoreDenied, StoreUnavailable,
    ObjectListInvalid (too much), NotRepresentable, OSError (disk full).
    """
    # Not at the top: the S3 client costs a third of a second that most starts never pay.
    from hotstart.store.s3_objects import PinnedObjects

    bucket = PinnedObjects(url)
    return make_weights(bucket.url, bucket.listing(), cache)


def make_weights(url: str, listing: Iterable[ListedObject], cache: Cache) -> Weights:
    """Put the list of objects and the bootstrap into the cache. Raises as ``load_weights``."""
    draft = _draft(listing)
    if not draft.files:
        raise NoObjects(url, draft.skipped)
    found = [draft.listed[key] for key in draft.files]
    listed = ObjectList(url, [(one.key, one.etag, one.size) for one in found if one.size])
    document = listed.encode()
    digest = Digest.of(document)
    image = bytes(_bootstrap(draft, listed, digest.hex))
    bootstrap = bootstrap_descriptor(zstd_frame.compress(image), image)
    cache.place_bootstrap(image)
    devices: tuple[DeviceSpec, ...] = ()
    if listed.objects:
        cache.place_objects(digest.hex, document)
        table = Descriptor(media_types.OBJECT_LIST, digest, len(document))
        devices = (DeviceSpec(listed.device_size, table, len(document), digest, url),)
    name = json.dumps([digest.hex, str(Digest.of(image))]).encode()
    spec = MountSpec(Digest.of(name).hex, bootstrap, devices, url)
    return Weights(spec, tuple(draft.skipped))


def _draft(listing: Iterable[ListedObject]) -> _Draft:
    """Make a tree of the keys, in the order of their bytes, whatever order they come in."""
    draft = _Draft()
    ordered = sorted(listing, key=lambda one: one.key.encode("utf-8", "surrogatepass"))
    taken = {one.key for one in ordered if one.size or not one.key.endswith("/")}
    parents = {key[:at] for key in taken if not _unfit(key) for at in _slashes(key)}
    for one in ordered:
        if (one.key.endswith("/") and one.size == 0) or not one.key:
            continue  # what consoles make to show a directory
        why = _unfit(one.key) or ("" if one.etag else "the server gives no ETag to pin it to")
        if not why and one.key in parents:
            why = "other keys lie below it, so that it is a directory"
        if why:
            draft.skipped.append(f"object {one.key[:300]!r} is left out: {why}")
        else:
            _add(draft, one)
    return draft


def _slashes(key: str) -> Iterable[int]:
    return (at for at, letter in enumerate(key) if letter == "/")


def _unfit(key: str) -> str:
    """Return why no file can have this key as its path, or nothing."""
    names = key.split("/")
    if any(name in ("", ".", "..") for name in names):
        return "its key has a component that is empty, '.' or '..'"
    if "\0" in key or "\ufffd" in key or (not key.isprintable() and any(c < " " for c in key)):
        return "its key has characters that are no text"
    if any(len(name.encode("utf-8", "surrogatepass")) > _MAX_NAME for name in names):
        return f"its key has a component of more than {_MAX_NAME} bytes"
    return ""


def _add(draft: _Draft, one: ListedObject) -> None:
    *above, name = one.key.encode().split(b"/")
    node = draft.tree.root
    node.mtime_ns = max(node.mtime_ns, one.mtime_ns)
    for part in above:
        node = node.children.setdefault(part, directory())
        node.mtime_ns = max(node.mtime_ns, one.mtime_ns)
    file = Node(stat.S_IFREG | 0o444, mtime_ns=one.mtime_ns, content=_Absent(one.size))
    node.children[name] = draft.files[one.key] = file
    draft.listed[one.key] = one


def _bootstrap(draft: _Draft, listed: ObjectList, device_id: str) -> bytes | bytearray:
    placements = _placements(draft.files, listed)
    slots = [BootstrapDevice(device_id, listed.device_size // PAGE)] if placements else []
    return write_bootstrap(draft.tree, placements, slots)


def _placements(files: Mapping[str, Node], listed: ObjectList) -> dict[int, FilePlacement]:
    found: dict[int, FilePlacement] = {}
    for pinned, start in zip(listed.objects, listed.starts, strict=True):
        node = files[pinned.key]
        placement = place(pinned.key.encode(), node, _Absent(pinned.size), dense=True)
        placement.device_offset = start
        found[id(node)] = placement
    return found

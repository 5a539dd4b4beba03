"""A file at a path, a storage's URI or a web address: its bytes, proved by their SHA-256, kept where the caller says and nowhere else."""

import hashlib
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass

from disback_ray.errors import CheckpointError, ConfigError
from disback_ray.storage import Folder

LEAST_DIGITS = 8  # of a SHA-256 that names a file: what torch's hub puts into file names
TIMEOUT = 60.0  # seconds without a byte
CHUNK, MOST = 1 << 20, 4 << 30


@dataclass(frozen=True)
class Fetched:
    """A file's bytes. name: without its folder; sha256: in full."""

    name: str
    data: bytes
    sha256: str


def fetch(where: str, *, sha256: str | None = None, cache: Folder | None = None, key: str = "weights") -> Fetched:
    """The file at `where`. sha256: what it must be, in full or its first 8 digits and more; key: what errors call the option.

    A web address (http, https) wants both a SHA-256 and a cache: it is loaded once, said so on stderr, proved, and kept there.
    Raises ConfigError where those are missing or malformed, CheckpointError where the file is, or is another.
    """
    wanted = _checked_digest(sha256, key)
    if not where.startswith(("http://", "https://")):
        folder, name = Folder.of_file(where)
        if folder.size(name) is None:
            raise CheckpointError(f"{key}: {where}: no such file")
        return _proved(name, folder.read(name), wanted, where)
    if wanted is None:
        raise ConfigError(f"{key}: {where}: give the file's SHA-256 as well (what comes from the web is used only when proved)")
    if cache is None:
        raise ConfigError(f"{key}: {where}: give a cache folder to keep it in; nothing is loaded into hidden places")
    name = where.partition("?")[0].rpartition("/")[2] or "file"
    kept = f"{wanted[:LEAST_DIGITS]}-{name}"
    if cache.has(kept):
        return _proved(name, cache.read(kept), wanted, f"{cache.uri}/{kept}")
    found = _proved(name, _download(where, f"{cache.uri}/{kept}"), wanted, where)
    cache.write(kept, found.data)
    return found


def _checked_digest(sha256: str | None, key: str) -> str | None:
    if sha256 is None:
        return None
    digits = sha256.lower().removeprefix("sha256:")
    if not LEAST_DIGITS <= len(digits) <= 64 or set(digits) - set("0123456789abcdef"):
        raise ConfigError(f"{key}: sha256 {sha256}: expected {LEAST_DIGITS} to 64 hexadecimal digits")
    return digits


def _proved(name: str, data: bytes, wanted: str | None, where: str) -> Fetched:
    found = hashlib.sha256(data).hexdigest()
    if wanted is not None and not found.startswith(wanted):
        raise CheckpointError(f"{where}: its SHA-256 is {found[:16]}…, not {wanted[:16]}…: another file, or a damaged one")
    return Fetched(name, data, found)


def _download(address: str, kept: str) -> bytes:
    print(f"loading {address} into {kept}", file=sys.stderr)
    parts, size = [], 0
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:
            while part := answer.read(CHUNK):
                parts.append(part)
                size += len(part)
                if size > MOST:
                    raise CheckpointError(f"{address}: larger than {MOST >> 30} GiB")
    except (OSError, ValueError) as error:  # URLError is an OSError
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise CheckpointError(f"{address}: can't be loaded: {' '.join(str(reason).split())}") from None
    return b"".join(parts)

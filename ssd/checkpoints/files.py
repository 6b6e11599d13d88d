"""A checkpoint on disc: a folder with archives of arrays, a state, and a manifest with hashes.

    parameters.npz ...  uncompressed NumPy archives, one per group of arrays
    state.json          everything else that the run needs
    manifest.json       format, step, size and SHA-256 of every other file, and a SHA-256 of all
                        that

No pickle is written, and none is ever loaded. Nothing here knows what the arrays mean.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import re
import stat
import zipfile
from typing import Dict, NamedTuple

import numpy as np

from ssd.errors import UserError
from ssd.files import sync_folder, write_synced

FORMAT = 1  # to be raised whenever an older program could misread a checkpoint
MANIFEST, STATE = "manifest.json", "state.json"
# The step, then 2, 3, ... if the step was saved again (see CheckpointStore._write). A copy may have
# any other name.
FOLDER_NAME = re.compile(r"step-(\d{8,})(?:-(\d+))?")
_GROUP = re.compile(r"[A-Za-z0-9_-]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_MANIFEST = 1 << 20  # bytes; a real one has about a thousand
# Bytes; NumPy writes 118 for all but extreme shapes. A Python parser reads it.
_MAX_HEADER = 1024
Arrays = Dict[str, Dict[str, np.ndarray]]


class Checkpoint(NamedTuple):
    """A checkpoint that was read and found intact."""

    path: str  # its folder
    step: int
    state: dict  # as given to `save`; JSON has turned tuples into lists
    arrays: Arrays  # by group and name; the caller may change them


def check_arrays(arrays: Arrays) -> None:
    """Asserts that these can be written: group names that are valid file names, NumPy arrays of
    bool or of numbers of at most 64 bits."""
    for group, members in arrays.items():
        assert _GROUP.fullmatch(group), f"no name for a file: {group!r}"
        for name, array in members.items():
            assert isinstance(name, str) and "\0" not in name and len(name.encode()) < 60000, (
                f"name {name!r:.80}"
            )
            assert type(array) is np.ndarray and _is_plain(array.dtype), (
                f"{group}/{name} is no array of numbers: {type(array).__name__} "
                f"{getattr(array, 'dtype', '')}"
            )


def write_files(folder: str, step: int, arrays: Arrays, state: str) -> None:
    """Creates `folder` with all files of a checkpoint, the manifest last, and waits until they are
    on disc.

    `state`: JSON text of an object. Raises OSError, and leaves behind what it has written.
    """
    os.mkdir(folder)
    files = {}

    def add(name, content):
        files[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        write_synced(os.path.join(folder, name), content)

    for group, members in arrays.items():
        add(group + ".npz", pack_arrays(members))
    add(STATE, state.encode())
    manifest = {"format": FORMAT, "step": step, "files": files}
    manifest["sha256"] = manifest_hash(manifest)
    write_synced(os.path.join(folder, MANIFEST), (json.dumps(manifest, indent=2) + "\n").encode())
    sync_folder(folder)


def load_checkpoint(path) -> Checkpoint:
    """Reads a checkpoint's folder and checks everything. Arrays and state come from the same bytes
    that were hashed.

    Raises UserError naming the file and the reason: missing, unexpected, cut short, changed, not an
    archive of arrays, Python objects, a symbolic link, another format, another step than in the
    folder's name. Nothing in the files is ever executed. Besides the arrays, it takes at most about
    three times the memory of the longest file.
    """
    path = os.fspath(path)
    manifest = read_manifest(path)
    step, files = manifest["step"], manifest["files"]
    match = FOLDER_NAME.fullmatch(os.path.basename(os.path.abspath(path)))
    if match and int(match[1]) != step:
        raise _refusal(os.path.join(path, MANIFEST), f"is of step {step}")
    try:
        present = set(os.listdir(path))
    except OSError as error:
        raise _refusal(path, f"cannot be read: {error.strerror}") from None
    for name in sorted(set(files) - present):
        raise _refusal(os.path.join(path, name), "is missing")
    for name in sorted(present - set(files) - {MANIFEST}):
        raise _refusal(os.path.join(path, name), "is not in the manifest")
    arrays, state = {}, None
    for name, expected in files.items():
        file = os.path.join(path, name)
        content = _read_file(file, expected["bytes"])
        if len(content) < expected["bytes"]:
            raise _refusal(file, f"is cut short: {len(content)} of {expected['bytes']} bytes")
        if hashlib.sha256(content).hexdigest() != expected["sha256"]:
            raise _refusal(file, "was changed: its SHA-256 is not the manifest's")
        if name == STATE:
            state = _parse_object(file, content)
        else:
            arrays[name[: -len(".npz")]] = unpack_arrays(content, file)
    return Checkpoint(path, step, state, arrays)


def pack_arrays(arrays: Dict[str, np.ndarray]):
    """The bytes of an .npz. The same arrays give the same bytes, so they hold no date.

    np.savez writes a date, and does not accept names such as "file".
    """
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(name + ".npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
    return memory.getbuffer()


def unpack_arrays(content, file: str) -> Dict[str, np.ndarray]:
    """The arrays in the bytes of an .npz, by name. UserError naming `file` for anything but plain
    arrays of numbers."""
    arrays = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            # Members of a forged archive may overlap: many large arrays in a small file.
            if any(member.compress_type != zipfile.ZIP_STORED for member in members) or sum(
                member.file_size for member in members
            ) > len(content):
                raise _refusal(file, "claims more data than it has")
            for member in members:
                name = member.filename[: -len(".npy")]
                if not member.filename.endswith(".npy") or name in arrays:
                    raise _refusal(file, f"{member.filename!r:.80} is no array or a duplicate")
                arrays[name] = _unpack_array(archive.read(member), f"{file}: {name!r:.80}")
    except UserError:
        raise
    except Exception as error:  # zipfile fails in many ways on forged bytes
        raise _refusal(file, f"is no archive of arrays: {_one_line(error)}") from None
    return arrays


def _unpack_array(content: bytes, what: str) -> np.ndarray:
    length = int.from_bytes(content[8:10], "little")
    if content[:8] != b"\x93NUMPY\x01\x00" or length > _MAX_HEADER:
        raise _refusal(what, "is no NumPy array")
    memory = io.BytesIO(content)
    np.lib.format.read_magic(memory)
    shape, _, dtype = np.lib.format.read_array_header_1_0(memory)
    if not _is_plain(dtype):
        raise _refusal(
            what,
            "holds Python objects" if dtype.hasobject else f"holds {dtype!s:.80} and not numbers",
        )
    claimed, present = math.prod(shape) * dtype.itemsize, len(content) - memory.tell()
    if any(size < 0 for size in shape) or claimed != present:  # before memory is allocated for it
        raise _refusal(
            what, f"claims the shape {shape!s:.80}, {claimed!s:.40} bytes, and has {present}"
        )
    memory.seek(0)
    return np.load(memory, allow_pickle=False)


def _is_plain(dtype: np.dtype) -> bool:
    return dtype.kind in "biuf" and dtype.itemsize <= 8


def read_manifest(path: str) -> dict:
    """The manifest of the checkpoint in the folder `path`. UserError unless it is valid and its
    hash is right."""
    file = os.path.join(path, MANIFEST)
    content = _read_file(file, _MAX_MANIFEST)
    manifest = _parse_object(file, content)
    if manifest.get("format") != FORMAT:
        raise _refusal(file, f"format {manifest.get('format')!r:.80}; this program reads {FORMAT}")
    if manifest.get("sha256") != manifest_hash(manifest):
        raise _refusal(file, "was changed: its own SHA-256 does not match")
    step, files = manifest.get("step"), manifest.get("files")
    if type(step) is not int or step < 0:
        raise _refusal(file, f"invalid step: {step!r:.80}")
    if type(files) is not dict or STATE not in files:
        raise _refusal(file, f"does not list {STATE}")
    for name, entry in files.items():
        # No name that matches this pattern leads out of the folder.
        if name != STATE and not (name.endswith(".npz") and _GROUP.fullmatch(name[: -len(".npz")])):
            raise _refusal(file, f"lists {name!r:.80}, which is no file of a checkpoint")
        if (
            type(entry) is not dict
            or type(entry.get("bytes")) is not int
            or entry["bytes"] < 0
            or not isinstance(entry.get("sha256"), str)
            or not _SHA256.fullmatch(entry["sha256"])
        ):
            raise _refusal(file, f"has no valid entry for {name}")
    return manifest


def manifest_hash(manifest: dict) -> str:
    """SHA-256 of everything in a manifest but this hash itself, in hexadecimal digits."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _read_file(file: str, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes. Follows no link, and does not wait for
    a pipe."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, "rb") as opened:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise _refusal(file, "is no regular file")
            if status.st_size > limit:
                raise _refusal(file, f"has {status.st_size} bytes, more than {limit}")
            return opened.read(status.st_size)
    except OSError as error:
        reason = {errno.ELOOP: "is a symbolic link", errno.ENOENT: "is missing"}.get(error.errno)
        raise _refusal(file, reason or f"cannot be read: {error.strerror}") from None


def _parse_object(file: str, content: bytes) -> dict:
    try:
        parsed = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise _refusal(file, f"is no JSON: {_one_line(error)}") from None
    if type(parsed) is not dict:
        raise _refusal(file, "is no JSON object")
    return parsed


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _refusal(file: str, reason: str) -> UserError:
    return UserError(f"checkpoint {file}: {reason}")

"""Packs image files into folders of records (ssd.datasets.record_folder). It can be interrupted at
any time and continues with the next call.

A file of records is written under a temporary name beside its final one and renamed when it is on
the disc, after its index and its part of the table: a file with its final name is complete. The
manifest is written last; until then it marks the folder as incomplete. During the packing the plan
is kept in the output folder; only a call with the same plan continues.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import threading
import zlib
from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from ssd.config import Config
from ssd.datasets import recordio
from ssd.datasets.in_threads import in_threads
from ssd.datasets.packing_plan import PackedSplit, PackingPlan, Shard, file_sha256, plan_packing
from ssd.datasets.record_folder import (
    COLUMNS,
    FORMAT,
    KIND,
    MANIFEST,
    TABLE,
    is_records,
    name_bytes,
    read_record_manifest,
)
from ssd.errors import UserError
from ssd.files import (
    discard,
    put_in_place,
    remove_leftovers,
    replace_file,
    replacing,
    temporary_path,
    write_errors,
)

PLAN = "packing.json"
_COLUMNS = ("offset", "stored", "size", "crc")  # of the table of one file of records


class _Stopped(Exception):
    """Another thread has failed, or an interrupt ends the packing."""


def pack(
    config: Config,
    output: str,
    splits: Sequence[str],
    *,
    shard_bytes: Optional[int] = None,
    threads: int = 0,
    report=print,
    progress=None,
) -> List[str]:
    """Packs the images of `splits` ('train', 'val') into the folder `output`, laid out as
    config.data.data_dir is, with copies of the annotation files; returns lines that report what it
    holds.

    shard_bytes, threads, report: see plan_packing; report also gets the space needed, before
    anything is written. progress: called with (images done, images), a few times a second. An
    interrupt keeps the complete files, and the next call continues. UserError: an output that holds
    anything else, too little space, and as of plan_packing.
    """
    _refuse_other_output(output)
    plan = plan_packing(config, splits, shard_bytes, threads, report)
    with write_errors(f"--output {output}", output), contextlib.ExitStack() as stack:
        _check_space(plan, output, report)
        os.makedirs(output, exist_ok=True)
        stack.enter_context(_locked(output))
        _refuse_other_output(output)  # again, now that no other process packs into it
        _begin(plan, output)
        _pack_shards(plan, output, threads, progress)
        lines = [_finish(plan, folder, output) for folder in plan.folders]
        os.unlink(os.path.join(output, PLAN))
    return lines


# ---- before


def _refuse_other_output(output: str) -> None:
    if not os.path.lexists(output):
        return
    if not os.path.isdir(output):
        raise UserError(f"--output {output}: is not a folder")
    names = [name for name in os.listdir(output) if not name.endswith((".partial", ".removed"))]
    if names and PLAN not in names:
        raise UserError(f"--output {output}: holds files already; give a new folder")


def _check_space(plan: PackingPlan, output: str, report) -> None:
    left = [shard for shard in plan.shards if not _is_done(plan, shard, output)]
    needed, existing = plan.bytes_needed(left), os.path.abspath(output)
    while not os.path.isdir(existing):
        existing = os.path.dirname(existing)
    free = shutil.disk_usage(existing).free
    done = (
        f" ({len(plan.shards) - len(left)} of them are done)"
        if len(left) < len(plan.shards)
        else ""
    )
    report(
        f"{output}: {plan.images:,} images into {_files(plan.shards)}{done}: {_megabytes(needed)} "
        f"are needed, {_megabytes(free)} are free"
    )
    if needed > free:
        raise UserError(
            f"--output {output}: {_megabytes(needed)} are needed, {_megabytes(free)} are free"
        )


@contextlib.contextmanager
def _locked(output: str):
    """Holds a lock, so that no other process packs into the folder."""
    handle = os.open(output, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"--output {output}: another process is packing into it") from None
        yield
    finally:
        os.close(handle)


def _begin(plan: PackingPlan, output: str) -> None:
    """Writes everything except the records. UserError if another packing was started in the
    folder."""
    path, wanted = os.path.join(output, PLAN), json.loads(json.dumps(plan.as_json()))
    remove_leftovers(output)
    if os.path.lexists(path):
        _compare(path, wanted, output)
    else:
        replace_file(path, (json.dumps(wanted) + "\n").encode())
    for part in plan.parts:
        folder, annotations = (
            os.path.join(output, name) for name in (part.folder, part.annotations_name)
        )
        os.makedirs(folder, exist_ok=True)
        os.makedirs(os.path.dirname(annotations), exist_ok=True)
        remove_leftovers(folder)
        remove_leftovers(os.path.dirname(annotations))
        if not os.path.lexists(annotations):
            with replacing(annotations) as partial:
                shutil.copyfile(part.annotations, partial)
        if not is_records(folder):
            _write_json(os.path.join(folder, MANIFEST), dict(kind=KIND, format=FORMAT, whole=False))


def _compare(path: str, wanted: Dict[str, Any], output: str) -> None:
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except ValueError:
        raise UserError(
            f"{path}: not the plan of a packing; remove {output} and start again"
        ) from None
    if not isinstance(found, dict) or found != wanted:
        same = isinstance(found, dict) and dict(found, shard_bytes=None) == dict(
            wanted, shard_bytes=None
        )
        raise UserError(
            f"--output {output}: its packing was started with another "
            + ("--shard-size" if same else "data set or other settings")
            + "; give the same ones, or remove it and start again"
        )


# ---- the records


def _base(plan: PackingPlan, shard: Shard, output: str) -> str:
    return os.path.join(output, plan.parts[shard.part].folder, shard.name)


def _is_done(plan: PackingPlan, shard: Shard, output: str) -> bool:
    """Whether a file of records is complete: it has its final name, and its index and table exist;
    the tables of single files are removed once the manifest is complete."""
    base = _base(plan, shard, output)
    return (
        os.path.isfile(base + ".rec")
        and os.path.isfile(base + ".idx")
        and (os.path.isfile(base + ".npz") or _has_manifest(os.path.dirname(base)))
    )


def _pack_shards(plan: PackingPlan, output: str, threads: int, progress) -> None:
    done, stopped = [0] * len(plan.shards), threading.Event()

    def work(number: int) -> None:
        shard = plan.shards[number]
        if _is_done(plan, shard, output):
            done[number] = shard.last - shard.first
            return

        def advance():
            done[number] += 1  # no other thread writes this element
            if stopped.is_set():
                raise _Stopped

        _pack_shard(plan.parts[shard.part], shard, _base(plan, shard, output), advance)

    in_threads(
        lambda: work,
        len(plan.shards),
        threads,
        progress and (lambda _: progress(sum(done), plan.images)),
        on_stop=stopped.set,
    )


def _pack_shard(part: PackedSplit, shard: Shard, base: str, advance) -> None:
    data, names, rows, offset = part.dataset, [], [], 0
    partial = temporary_path(base + ".rec")
    try:
        with open(partial, "xb", buffering=1 << 20) as file:
            for index in part.indices[shard.first : shard.last].tolist():
                names.append(data.file_names[index])
                image = bytes(data.images.read(names[-1]))
                content = recordio.image_content(
                    int(data.image_ids[index]), part.label(index), image
                )
                pieces = recordio.encode(content)
                file.writelines(pieces)
                stored = sum(map(len, pieces))
                rows.append((offset, stored, len(image), zlib.crc32(content)))
                offset += stored
                advance()
        text = json.dumps(names).encode()
        with replacing(base + ".npz") as table, open(table, "xb") as file:
            np.savez(file, names=np.frombuffer(text, np.uint8), rows=np.array(rows, np.int64))
        replace_file(
            base + ".idx",
            "".join(
                "%d\t%d\n" % (shard.first + number, row[0]) for number, row in enumerate(rows)
            ).encode(),
        )
        put_in_place(partial, base + ".rec")
    finally:
        discard(partial)


# ---- table and manifest


def _has_manifest(folder: str) -> bool:
    return is_records(folder) and bool(read_record_manifest(folder, complete=False).get("whole"))


def _finish(plan: PackingPlan, name: str, output: str) -> str:
    """Writes table and manifest of the folder `name`; returns a line about its content."""
    folder = os.path.join(output, name)
    shards = [shard for shard in plan.shards if plan.parts[shard.part].folder == name]
    if not _has_manifest(folder):
        _write_manifest(
            folder, shards, [part.described() for part in plan.parts if part.folder == name]
        )
    for shard in shards:
        discard(os.path.join(folder, shard.name + ".npz"))
    size = sum(os.path.getsize(os.path.join(folder, shard.name + ".rec")) for shard in shards)
    return (
        f"{folder}: {sum(shard.last - shard.first for shard in shards):,} images in "
        f"{_files(shards)}, {_megabytes(size)}"
    )


def _write_manifest(folder: str, shards: List[Shard], splits: List[Dict[str, Any]]) -> None:
    names: List[str] = []
    columns: Dict[str, List[np.ndarray]] = {
        key: [np.zeros(0, np.int64)] for key in ("shard", *_COLUMNS)
    }
    entries = []
    for number, shard in enumerate(shards):
        base = os.path.join(folder, shard.name)
        with np.load(base + ".npz", allow_pickle=False) as kept:
            own, rows = json.loads(kept["names"].tobytes()), kept["rows"].reshape(-1, len(_COLUMNS))
        size = os.path.getsize(base + ".rec")
        if len(rows) != shard.last - shard.first or int(rows[-1, :2].sum()) != size:
            raise UserError(f"{base}.rec: not the file that was packed; remove it and pack again")
        names += own
        columns["shard"].append(np.full(len(rows), number))
        for column, key in enumerate(_COLUMNS):
            columns[key].append(rows[:, column])
        entries.append(dict(file=shard.name + ".rec", bytes=size, images=len(rows)))
    write_table(
        os.path.join(folder, TABLE),
        names,
        {key: np.concatenate(parts) for key, parts in columns.items()},
    )
    _write_json(
        os.path.join(folder, MANIFEST),
        dict(
            kind=KIND,
            format=FORMAT,
            whole=True,
            images=len(names),
            splits=splits,
            shards=entries,
            table=_hashed(folder, TABLE),
            indices=[_hashed(folder, shard.name + ".idx") for shard in shards],
        ),
    )


def write_table(path: str, names: List[str], columns: Dict[str, np.ndarray]) -> None:
    """Writes a table of records; columns: those of COLUMNS without name_end, in the order of
    `names`."""
    encoded = [name_bytes(name) for name in names]
    order = sorted(range(len(names)), key=encoded.__getitem__)
    ends = np.cumsum([len(encoded[row]) for row in order])
    columns = dict({key: values[order] for key, values in columns.items()}, name_end=ends)
    with replacing(path) as partial, open(partial, "xb") as file:
        np.savez(
            file,
            names=np.frombuffer(b"".join(encoded[row] for row in order), np.uint8),
            **{key: columns[key].astype(kind) for key, kind in COLUMNS.items()},
        )


def _write_json(path: str, content: Dict[str, Any]) -> None:
    replace_file(path, (json.dumps(content, indent=1) + "\n").encode())


def _hashed(folder: str, name: str) -> Dict[str, str]:
    return dict(file=name, sha256=file_sha256(os.path.join(folder, name)))


def _files(shards: Sequence[Shard]) -> str:
    return f"{len(shards)} file{'' if len(shards) == 1 else 's'} of records"


def _megabytes(number: int) -> str:
    return f"{number / 1e6:,.1f} MB"

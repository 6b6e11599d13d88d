from __future__ import annotations

import os
import pickle  # writes only
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from ssd.errors import UserError
from ssd.model.torch_file import MAGIC_NUMBER, PROTOCOL_VERSION, read_state_dict


class Call:
    """Pickled as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def save_old(path, value: bytes, storages=(), little_endian=True, version=PROTOCOL_VERSION):
    """The older format around a ready-made pickle; storages: (key, array)."""
    with open(path, "wb") as file:
        system = {
            "protocol_version": version,
            "little_endian": little_endian,
            "type_sizes": {"int": 4},
        }
        for part in (MAGIC_NUMBER, version, system):
            pickle.dump(part, file, protocol=2)
        file.write(value)
        pickle.dump([key for key, _ in storages], file, protocol=2)
        for _, array in storages:
            file.write(struct.pack("<q", array.size) + array.tobytes())
    return str(path)


def save_zip(path, value: bytes, storages=(), byteorder=b"little", compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", value)
        archive.writestr("archive/byteorder", byteorder)
        for key, array in storages:
            archive.writestr(f"archive/data/{key}", array.tobytes())
    return str(path)


SAVE = pytest.mark.parametrize("save", [save_old, save_zip])


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def storage(elements: int, key="0", kind="torch FloatStorage", view=None, old=False) -> bytes:
    tail = b""
    if view:
        tail = b"(" + text(view[0]) + number(view[1]) + number(view[2]) + b"t"
    elif old:
        tail = b"N"
    return (
        b"("
        + text("storage")
        + b"c"
        + kind.replace(" ", "\n").encode()
        + b"\n"
        + text(key)
        + text("cpu")
        + number(elements)
        + tail
        + b"tQ"
    )


def tensor(record: bytes, offset, shape, strides, function="torch._utils _rebuild_tensor") -> bytes:
    sizes = b"".join(b"(" + b"".join(map(number, values)) + b"t" for values in (shape, strides))
    return (
        b"c"
        + function.replace(" ", "\n").encode()
        + b"\n("
        + record
        + number(offset)
        + sizes
        + b"tR"
    )


def dict_of(**tensors: bytes) -> bytes:
    return b"\x80\x02}(" + b"".join(text(name) + value for name, value in tensors.items()) + b"u."


@pytest.mark.parametrize("old_format", [True, False])
def test_what_pytorch_saves_comes_back_exactly(tmp_path, old_format):
    torch = pytest.importorskip("torch")
    base = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
    saved = OrderedDict(
        weight=torch.randn(4, 3, 2, 2),
        transposed=base.permute(2, 0, 1),
        part=base[1:, 2:3, ::2],
        same=base,
        counter=torch.tensor(7),
        double=torch.randn(3, dtype=torch.float64),
        half=torch.randn(3).half(),
        flags=torch.tensor([True, False]),
        bytes=torch.tensor([1, 255], dtype=torch.uint8),
        empty=torch.zeros(0, 3),
        parameter=torch.nn.Parameter(torch.randn(2, 2)),
    )
    path = str(tmp_path / "saved.pth")
    torch.save(saved, path, _use_new_zipfile_serialization=not old_format)

    read = read_state_dict(path)

    assert list(read) == list(saved)
    for name, expected in saved.items():
        expected = expected.detach().numpy()
        assert read[name].dtype == expected.dtype and read[name].shape == expected.shape, name
        assert np.array_equal(read[name], expected), name
        assert read[name].flags.c_contiguous and read[name].flags.owndata, name


@pytest.mark.parametrize("old_format", [True, False])
def test_a_module_with_its_metadata(tmp_path, old_format):
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.BatchNorm2d(2))
    path = str(tmp_path / "saved.pth")
    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=not old_format)
    read = read_state_dict(path)
    assert list(read) == list(module.state_dict()) and read["1.num_batches_tracked"].shape == ()


def test_as_the_first_pytorch_under_python_2_wrote_it(tmp_path):
    """Byte strings, OrderedDict of pairs, _rebuild_tensor, Parameter with its flags, a view of a
    storage."""

    def word(value):
        return b"U" + bytes([len(value)]) + value.encode()

    array = np.arange(8, dtype=np.float32)
    parameter = (
        b"ctorch.nn.parameter\nParameter\n"
        + tensor(storage(8, old=True), 2, (2, 2), (2, 1))
        + b"\x85R"
        + b"(\x88\x89ccollections\nOrderedDict\n)Rtb"
    )
    view = tensor(storage(8, view=("1", 4, 3)), 1, (2,), (1,))
    pairs = (
        b"](]("
        + word("conv1.weight")
        + parameter
        + b"e]("
        + word("bn1.running_mean")
        + view
        + b"ee"
    )
    value = b"\x80\x02ccollections\nOrderedDict\n" + pairs + b"\x85R."
    read = read_state_dict(save_old(tmp_path / "old.pth", value, [("0", array)]))
    assert list(read) == ["conv1.weight", "bn1.running_mean"]
    assert read["conv1.weight"].tolist() == [[2, 3], [4, 5]]
    assert read["bn1.running_mean"].tolist() == [5, 6]


@SAVE
def test_nothing_is_executed(tmp_path, save):
    marker = tmp_path / "executed"
    for evil, name in (
        (Call(os.system, f"touch '{marker}'"), "system"),
        (Call(eval, f"open({str(marker)!r}, 'w')"), "eval"),
        (Call(open, str(marker), "w"), "open"),
        (Call(getattr, "text", "upper"), "getattr"),
    ):
        path = save(tmp_path / "evil.pth", pickle.dumps({"conv1.weight": evil}, protocol=2))
        with pytest.raises(UserError, match=rf"evil\.pth.*{name}\b"):
            read_state_dict(path)
    assert not marker.exists()
    # The same pickle does execute where it is loaded, so the test above can fail.
    pickle.loads(pickle.dumps(Call(open, str(marker), "w"), protocol=2)).close()
    assert marker.exists()


@SAVE
def test_other_objects_are_refused_by_name(tmp_path, save):
    path = tmp_path / "other.pth"
    for value, name in (
        ({"a": np.array([{}], dtype=object)}, "numpy"),
        ({"a": np.zeros(3)}, "numpy"),
        ({"a": 3}, "'a', which is a int"),
        ([1], "no dict of tensors"),
        ({}, "no dict"),
        ({"a": {"b": 1}}, "which is a dict"),
        ({"a": 1.5}, "BINFLOAT"),
    ):
        with pytest.raises(UserError, match=name):
            read_state_dict(save(path, pickle.dumps(value, protocol=2)))
    with pytest.raises(UserError, match="BFloat16Storage"):
        record = storage(1, kind="torch BFloat16Storage")
        read_state_dict(save(path, dict_of(a=tensor(record, 0, (1,), (1,)))))
    with pytest.raises(UserError, match="_rebuild_sparse_tensor"):
        read_state_dict(
            save(
                path,
                dict_of(
                    a=tensor(
                        storage(1), 0, (1,), (1,), function="torch._utils _rebuild_sparse_tensor"
                    )
                ),
            )
        )
    with pytest.raises(UserError, match="operation (INST|OBJ|NEWOBJ|STACK_GLOBAL)"):
        read_state_dict(save(path, b"\x80\x02(ios\nsystem\n."))


@SAVE
@pytest.mark.parametrize(
    "offset, shape, strides",
    [
        (0, (7,), (1,)),
        (1, (6,), (1,)),
        (6, (1,), (1,)),
        (0, (2, 3), (4, 1)),
        (0, (2, 2), (3, 3)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (-2,), (1,)),
        (0, (2, 3), (3,)),
        (0, (1000,), (0,)),
    ],
)
def test_tensors_outside_their_storage_are_refused(tmp_path, save, offset, shape, strides):
    value = dict_of(a=tensor(storage(6), offset, shape, strides))
    path = save(tmp_path / "bad.pth", value, [("0", np.zeros(6, np.float32))])
    with pytest.raises(UserError, match=r"bad\.pth.*a tensor"):
        read_state_dict(path)


@SAVE
def test_storage_of_another_length_is_refused(tmp_path, save):
    value = dict_of(a=tensor(storage(6), 0, (6,), (1,)))
    right = save(tmp_path / "a.pth", value, [("0", np.ones(6, np.float32))])
    assert read_state_dict(right)["a"].tolist() == [1] * 6
    for size in (5, 7):
        with pytest.raises(UserError, match="storage 0 "):
            read_state_dict(save(tmp_path / "a.pth", value, [("0", np.ones(size, np.float32))]))
    with pytest.raises(UserError, match="(data/0|storage 0)"):
        read_state_dict(save(tmp_path / "a.pth", value))
    huge = dict_of(a=tensor(storage(2**31 - 1), 0, (6,), (1,)))
    with pytest.raises(UserError, match="storage 0 "):
        read_state_dict(save(tmp_path / "a.pth", huge, [("0", np.ones(6, np.float32))]))


def test_byte_order_compression_and_version(tmp_path):
    value, storages = dict_of(a=tensor(storage(2), 0, (2,), (1,))), [("0", np.ones(2, np.float32))]
    path = tmp_path / "a.pth"
    for saved in (
        save_old(path, value, storages, little_endian=False),
        save_zip(path, value, storages, byteorder=b"big"),
    ):
        with pytest.raises(UserError, match="byte order"):
            read_state_dict(saved)
    with pytest.raises(UserError, match="uncompressed"):
        read_state_dict(save_zip(path, value, storages, compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(UserError, match="protocol version 1000"):
        read_state_dict(save_old(path, value, storages, version=1000))


@SAVE
def test_a_file_cut_off_anywhere_is_refused(tmp_path, save):
    value = dict_of(a=tensor(storage(6), 0, (6,), (1,)))
    path = save(tmp_path / "intact.pth", value, [("0", np.ones(6, np.float32))])
    with open(path, "rb") as file:
        complete = file.read()
    cut = tmp_path / "cut.pth"
    for length in range(len(complete)):
        cut.write_bytes(complete[:length])
        with pytest.raises(UserError, match=r"cut\.pth"):
            read_state_dict(str(cut))


@SAVE
@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # from pickletools, over the damage
def test_damaged_bytes_give_a_clear_error_or_numbers(tmp_path, save):
    value = dict_of(a=tensor(storage(6), 0, (6,), (1,)), b=tensor(storage(6), 2, (2, 2), (2, 1)))
    path = save(tmp_path / "intact.pth", value, [("0", np.ones(6, np.float32))])
    with open(path, "rb") as file:
        complete = file.read()
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(600):
        damaged = bytearray(complete)
        for position in generator.integers(0, len(complete), 2):
            damaged[position] = generator.integers(0, 256)
        (tmp_path / "damaged.pth").write_bytes(damaged)
        try:
            read_state_dict(str(tmp_path / "damaged.pth"))
        except UserError:
            refused += 1
    assert refused > 200


def test_what_is_no_pytorch_file(tmp_path):
    path = tmp_path / "a.pth"
    for content, reason in (
        (b"", "not a PyTorch file"),
        (b"text", "not a PyTorch file"),
        (pickle.dumps({}, protocol=2), "not PyTorch's"),
        (b"\x80\x02", "cut off"),
        (b"PK\x03\x04 and so on", "not an intact"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"a\.pth: .*{reason}"):
            read_state_dict(str(path))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("\u00e9/data.pkl", b"")
    path.write_bytes(
        path.read_bytes().replace("\u00e9".encode(), b"\xff\xff")
    )  # a name that is no UTF-8
    with pytest.raises(UserError, match="a.pth: not an intact PyTorch file"):
        read_state_dict(str(path))
    with pytest.raises(UserError, match="missing.pth: cannot be read: No such file"):
        read_state_dict(str(tmp_path / "missing.pth"))

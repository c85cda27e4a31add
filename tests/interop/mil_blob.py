"""Weight files against Apple's own reader and writer, the MILBlob library inside coremltools.

    pip install coremltools==9.0
    python tests/interop/mil_blob.py              writes golden/mil/blob_*.bin with Apple's writer
    python tests/interop/mil_blob.py FILE...      reads files that Rust wrote with Apple's reader

crates/mil/tests/blob.rs reads the golden files, and checks that the Rust writer makes the same bytes.
"""

import pathlib
import sys

import numpy as np
import coremltools.libmilstoragepython as milstorage

OUT = pathlib.Path(__file__).parent / "golden" / "mil"


def fp16(count):
    return (np.arange(count, dtype=np.float32) / 8 - 4).astype(np.float16)


def write():
    OUT.mkdir(parents=True, exist_ok=True)
    one = milstorage._BlobStorageWriter(str(OUT / "blob_one.bin"), True)
    assert one.write_fp16_data(fp16(64).view(np.uint16)) == 64
    del one
    many = milstorage._BlobStorageWriter(str(OUT / "blob_many.bin"), True)
    offsets = [
        many.write_fp16_data(fp16(5).view(np.uint16)),
        many.write_float_data(np.array([1.5, -2.25], dtype=np.float32)),
        many.write_int8_data(np.array([-128, 127, 3], dtype=np.int8)),
        many.write_uint8_data(np.array([0, 255], dtype=np.uint8)),
        many.write_int32_data(np.array([-7, 1 << 30], dtype=np.int32)),
    ]
    del many
    print("offsets", offsets)


def read(path):
    """Every record that Apple's reader accepts, as our layout places them."""
    data = pathlib.Path(path).read_bytes()
    reader = milstorage._BlobStorageReader(path)
    readers = {1: "read_fp16_data", 2: "read_float_data", 3: "read_uint8_data", 4: "read_int8_data", 14: "read_int32_data"}
    at, count = 64, 0
    while at < len(data):
        code = int.from_bytes(data[at + 4 : at + 8], "little")
        size = int.from_bytes(data[at + 8 : at + 16], "little")
        values = np.asarray(getattr(reader, readers[code])(at))
        assert values.nbytes == size and values.tobytes() == data[at + 64 : at + 64 + size], (path, at)
        at, count = (at + 64 + size + 63) // 64 * 64, count + 1
    print(f"{path}: {count} records, every bit as Apple's reader gives it")


if __name__ == "__main__":
    for path in sys.argv[1:]:
        read(path)
    if len(sys.argv) == 1:
        write()

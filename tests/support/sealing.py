"""The checksum of a checkpoint, said again from its description: for tests that change a file and want it believed."""

import json
import zlib


def sealed(file):
    """Return the bytes of a file with the right checksum; those that hold no arrays as told are left as they are."""
    length = int.from_bytes(file[:8], "little")
    told, data = json.loads(file[8 : 8 + length]), file[8 + length :]
    entries = {name: entry for name, entry in told.items() if name != "__metadata__"}
    try:
        total = zlib.crc32(told["__metadata__"]["xprnn"].encode())
        for name in sorted(entries):
            begin, end = entries[name]["data_offsets"]
            what = f"{name} {entries[name]['dtype']} {tuple(entries[name]['shape'])}"
            total = zlib.crc32(data[begin:end], zlib.crc32(what.encode(), total))
        told["__metadata__"]["crc32"] = f"{total:08x}"
    except (AttributeError, KeyError, TypeError, ValueError):
        return file
    header = json.dumps(told).encode()
    return len(header).to_bytes(8, "little") + header + data

"""Execution functions whose returns are hard to carry whole."""

__outputter__ = {"values": "pprint"}


def values():
    """One of everything that msgpack and Salt can write."""
    return {
        "text": "Größe ☃ 🧂 \x00 \u2028",
        "bytes": b"\x00\xff\xfe\x80salt",
        "beyond 64 bit": [2**70, -(2**70), 2**64],
        "within 64 bit": [2**64 - 1, -(2**63), 2**63, 255, -1, 0],
        "floats": [0.1, 1e300, -0.0, -1e-300, 5e-324],
        "constants": [None, True, False],
        "empty": [{}, [], "", b""],
        "nested": {"a": [{"b": [[[{"c": (1, 2)}]]]}]},
        1: "integer key",
        -7: {2**40: "large integer key"},
        True: "boolean key is 1 in Python",
        "long": "é" * 70_000,
    }


def big(mib):
    """Text of this many MiB, no two of its lines alike."""
    lines = (f"{number:015x}\n" for number in range(int(mib) * 65536))
    return "".join(lines)

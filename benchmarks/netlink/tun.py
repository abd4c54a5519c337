"""TUN devices: IP packets of a namespace as reads and writes of a file descriptor. Linux."""

from __future__ import annotations

import fcntl
import os
import struct
from typing import Final

__all__ = ["open_tun"]

_DEVICE: Final = "/dev/net/tun"
_TUNSETIFF: Final = 0x400454CA  # linux/if_tun.h
_IFF_TUN: Final = 0x0001
_IFF_NO_PI: Final = 0x1000


def open_tun(name: str) -> int:
    """A descriptor of the new device `name` (at most 15 characters), which goes when it is closed.

    The device may be moved to another namespace. Raises `OSError` without root or TUN.
    """
    fd = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError:
        os.close(fd)
        raise
    return fd

"""Starts a program that can open no files but those it needs: ``python -I -S cage.py [--read PATH]... FOLDER PROGRAM
ARGUMENT...``.

By Landlock, which every user may ask of the kernel (Linux 5.13 and later). FOLDER may be written; the system's
programs, libraries and fonts may be read, and so may each PATH; nothing else can be opened by the program and all that it starts: no
home folder, no other job, no `/proc`. Exits with `NO_CAGE` where the kernel cannot do that.

A fresh process, because what is given up here cannot be had again; so only what loads fast is imported.
"""

import ctypes
import os
import sys

NO_CAGE = 199

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same numbers on every architecture
_PATH_BENEATH = 1
_VERSION = 1
_NO_NEW_PRIVS = 38

# Rights, as bits; 14 is truncating and 15 device controls.
_EXECUTE, _WRITE, _READ, _LIST, _MAKE_SOCKET = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 9
_ALL = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_NEWEST = (1 << 16) - 1
_OF_FILES = _EXECUTE | _WRITE | _READ | 1 << 14 | 1 << 15

_SYSTEM = "/usr /lib /lib32 /lib64 /bin /sbin /opt /nix/store".split()
_SETTINGS = """
    /etc/alternatives /etc/fonts /etc/group /etc/java /etc/ld.so.cache /etc/ld.so.conf /etc/ld.so.conf.d
    /etc/libreoffice /etc/locale.alias /etc/localtime /etc/nsswitch.conf /etc/papersize /etc/passwd
    /var/cache/fontconfig /var/lib/libreoffice /var/spool/libreoffice /sys/devices/system/cpu
    /dev/random /dev/urandom /dev/zero
""".split()


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


class Cage:
    """A set of files that may be opened, for this process and all that it starts."""

    def __init__(self) -> None:
        if sys.platform != "linux":
            raise OSError(f"{sys.platform} has no Landlock")
        self._libc = ctypes.CDLL(None, use_errno=True)
        version = self._call(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))
        self._handled = _ALL.get(version, _NEWEST)
        attributes = ctypes.c_uint64(self._handled)
        self._rules = self._call(_CREATE, ctypes.byref(attributes), ctypes.c_size_t(8), ctypes.c_uint32(0))

    def allow(self, path: str, rights: int) -> None:
        """Let a file, or everything below a folder, be used; what is not there is passed over."""
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        rights &= self._handled
        if not os.path.isdir(path):
            rights &= _OF_FILES
        rule = _Beneath(rights, descriptor)
        self._call(
            _ADD,
            ctypes.c_int(self._rules),
            ctypes.c_int(_PATH_BENEATH),
            ctypes.byref(rule),
            ctypes.c_uint32(0),
        )
        os.close(descriptor)

    def close(self) -> None:
        """Shut it, for good."""
        zero = ctypes.c_ulong(0)
        if self._libc.prctl(_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero):
            raise OSError(ctypes.get_errno(), "no_new_privs")
        self._call(_RESTRICT, ctypes.c_int(self._rules), ctypes.c_uint32(0))

    def _call(self, number: int, *arguments: object) -> int:
        answer: int = self._libc.syscall(ctypes.c_long(number), *arguments)
        if answer < 0:
            raise OSError(ctypes.get_errno(), f"system call {number}")
        return answer


def _home_of(program: str) -> str:
    """Where a program and what belongs to it lie: of ``…/libreoffice/program/soffice``, ``…/libreoffice``."""
    folder = os.path.dirname(os.path.realpath(program))
    return os.path.dirname(folder) if os.path.basename(folder) == "program" else folder


def main(folder: str, command: list[str], readable: list[str]) -> None:
    """Shut the cage around this process, and become the program."""
    try:
        cage = Cage()
        for path in (*_SYSTEM, _home_of(command[0]), *readable):
            cage.allow(path, _EXECUTE | _READ | _LIST)
        for path in _SETTINGS:
            cage.allow(path, _READ | _LIST)
        cage.allow("/dev/null", _READ | _WRITE)
        cage.allow(folder, _NEWEST)
        # LibreOffice makes a socket there, whatever it is told. It may not remove it, nor anything else.
        cage.allow("/tmp", _MAKE_SOCKET)  # noqa: S108
        cage.close()
    except OSError as error:
        print(f"files cannot be shut off here: {error}", file=sys.stderr)  # noqa: T201 - the caller reads it
        os._exit(NO_CAGE)
    os.execv(command[0], command)  # noqa: S606 - a list, no shell


if __name__ == "__main__":
    words = sys.argv[1:]
    paths = []
    while words[0] == "--read":
        paths.append(words[1])
        del words[:2]
    main(words[0], words[1:], paths)

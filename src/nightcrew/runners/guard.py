"""The guard: a small process between a worker and a program it runs, so that nothing of it survives.

Run as ``python -I -S guard.py CONTROL SETTINGS PROGRAM ARGUMENT...``; no worker imports it. It sets
limits in a fresh, single-threaded process (a `preexec_fn` in a threaded worker can deadlock), starts
the program in a session of its own, and stays. As subreaper it becomes the parent of everything the
program leaves behind, daemons in sessions of their own included, and ends them when the program
ends, when it is told to, or when the worker is gone (end of file on CONTROL).

Only what loads fast is imported: the `signal` module alone would double the time to start.

The worker writes ``T`` (terminate the program's group) or ``K`` (kill everything). The guard answers
lines: ``started PID``, ``refused STAGE ERRNO TEXT``, ``ended STATUS MAX_RSS_KIB SURVIVORS``.
"""

import ctypes
import os
import select
import sys
import time

LINUX = sys.platform == "linux"
SIGKILL, SIGPIPE, SIGTERM, SIGXFSZ = 9, 13, 15, 25
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_SUBREAPER, PR_NO_NEW_PRIVS = 1, 22, 24, 36, 38
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
CAP_NET_ADMIN, CAP_SYS_PTRACE, CAP_SYS_ADMIN = 12, 19, 21
KILL_PATIENCE = 5.0
"""Seconds to go on killing: a process in an uninterruptible wait does not die at once."""

Settings = dict[str, str]


class Refused(Exception):
    """The program cannot be started as asked; `stage` says at what it failed."""

    def __init__(self, stage: str, number: int, text: str) -> None:
        super().__init__(stage, number, text)
        self.stage = stage


def main(arguments: list[str]) -> None:
    control = int(arguments[0])
    settings = dict(part.split("=", 1) for part in arguments[1].split(",") if part)
    os.umask(0o077)
    libc = ctypes.CDLL(None, use_errno=True)
    if LINUX:
        libc.prctl(PR_SET_SUBREAPER, 1, 0, 0, 0)
    guard = os.getpid()
    failed, fail = os.pipe()  # closed by a successful exec
    program = os.fork()
    if program == 0:
        os.close(control)
        become(libc, arguments[2:], settings, guard, fail)
    os.close(fail)
    # Let go of the program's own pipes and sockets: their readers wait for the last one to close.
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    for passed in settings.get("pass", "").split(":"):
        if passed:
            os.close(int(passed))
    refusal = b""
    while part := os.read(failed, 4096):
        refusal += part
    os.close(failed)
    if refusal:
        os.waitpid(program, 0)
        tell(control, b"refused " + refusal)
    else:
        tell(control, b"started %d" % program)
        watch(control, program)


# In the program's process, before it becomes the program.


def become(libc: ctypes.CDLL, command: list[str], settings: Settings, guard: int, fail: int) -> None:
    """Turn this process into the program; tell `fail` why where that cannot be."""
    try:
        os.setsid()
        if LINUX:
            # Should the guard itself be killed. It may be dead already: then its pid is not our parent.
            libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
            if os.getppid() != guard:
                os._exit(1)
        for number in (SIGPIPE, SIGXFSZ):  # Python ignores these, and exec would hand that on
            libc.signal(number, None)
        set_limits(settings)
        if settings.get("network") == "off":
            leave_network(libc)
        try:
            os.execvp(command[0], command)  # noqa: S606 - no shell, and the arguments are a list
        except OSError as error:
            raise Refused("exec", error.errno or 0, f"{command[0]}: {error.strerror}") from None
    except Refused as refused:
        stage, number, text = refused.args
        os.write(fail, f"{stage} {number} {text}".encode()[:4000])
    except BaseException as error:
        os.write(fail, f"start 0 {error!r}".encode()[:4000])
    finally:
        os._exit(127)


def set_limits(settings: Settings) -> None:
    import resource  # noqa: PLC0415 - loaded in the program's process only

    kinds = {
        "core": resource.RLIMIT_CORE,
        "cpu": resource.RLIMIT_CPU,
        "memory": resource.RLIMIT_AS,
        "file_size": resource.RLIMIT_FSIZE,
        "open_files": resource.RLIMIT_NOFILE,
        "processes": resource.RLIMIT_NPROC,
    }
    for name, kind in kinds.items():
        if name in settings:
            value = int(settings[name])
            _, most = resource.getrlimit(kind)
            if most != resource.RLIM_INFINITY:
                value = min(value, most)
            # The hard limit a second later: a program may catch the first signal, not the second.
            hard = value + 1 if name == "cpu" and (most == resource.RLIM_INFINITY or value < most) else value
            try:
                resource.setrlimit(kind, (value, hard))
            except (OSError, ValueError) as error:
                raise Refused("limit", 0, f"{name}={value}: {error}") from None


def leave_network(libc: ctypes.CDLL) -> None:
    """Cut this process and all it starts off the network; refuse to go on where that cannot be.

    First choice is a network namespace of its own, empty but for a loopback. Where none may be made
    (most containers), a filter of system calls refuses every socket but local ones.
    """
    if not LINUX:
        raise Refused("network", 0, f"{sys.platform} has neither network namespaces nor seccomp")
    user, group = os.geteuid(), os.getegid()
    if user == 0 and libc.unshare(CLONE_NEWNET) == 0:
        raise_loopback(libc)
        # A privileged program could step back into the host's namespace with these.
        for capability in (CAP_NET_ADMIN, CAP_SYS_PTRACE, CAP_SYS_ADMIN):
            libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    elif libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0:
        for path, content in (
            ("/proc/self/setgroups", "deny"),
            ("/proc/self/uid_map", f"{user} {user} 1"),
            ("/proc/self/gid_map", f"{group} {group} 1"),
        ):
            try:
                with open(path, "w", encoding="ascii") as file:
                    file.write(content)
            except OSError as error:
                raise Refused("network", error.errno or 0, f"{path}: {error.strerror}") from None
        raise_loopback(libc)
    else:
        refuse_sockets(libc)


def raise_loopback(libc: ctypes.CDLL) -> None:
    """Bring up the loopback of a new namespace: programs talk to themselves over it."""
    socket = libc.socket(2, 2, 0)
    if socket >= 0:
        request = b"lo".ljust(16, b"\0") + (0x41).to_bytes(2, sys.byteorder) + bytes(22)
        libc.ioctl(socket, 0x8914, ctypes.create_string_buffer(request, 40))  # SIOCSIFFLAGS: up, running
        os.close(socket)


def refuse_sockets(libc: ctypes.CDLL) -> None:
    """Install a seccomp filter: no sockets but AF_UNIX, no io_uring (which could open some)."""
    machine = os.uname().machine
    known = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
    if machine not in known or sys.maxsize < 2**32:
        raise Refused("network", 0, f"no namespace may be made here, and no filter is known for {machine}")
    architecture, socket = known[machine]
    load, equal, greater, answer = 0x20, 0x15, 0x35, 0x06
    allow, refuse, kill = 0x7FFF0000, 0x00050001, 0x80000000
    # code, jump if true, jump if false, value
    lines = (
        (load, 0, 0, 4),  # the architecture
        (equal, 1, 0, architecture),
        (answer, 0, 0, kill),  # 32-bit calls have other numbers
        (load, 0, 0, 0),  # the number of the call
        (greater, 4, 0, 0x40000000),  # x32 has other numbers too -> refuse
        (equal, 3, 0, 425),  # io_uring_setup -> refuse
        (equal, 0, 3, socket),  # anything else -> allow
        (load, 0, 0, 16),  # its first argument: the family
        (equal, 1, 0, 1),  # AF_UNIX -> allow
        (answer, 0, 0, refuse),
        (answer, 0, 0, allow),
    )
    code = b"".join(
        code.to_bytes(2, "little") + bytes((yes, no)) + value.to_bytes(4, "little")
        for code, yes, no, value in lines
    )

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    program = Program(len(lines), code)
    zero = ctypes.c_ulong(0)
    failed = libc.prctl(PR_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero) or libc.prctl(
        PR_SET_SECCOMP, ctypes.c_ulong(2), ctypes.byref(program), zero, zero
    )
    if failed:
        number = ctypes.get_errno()
        raise Refused("network", number, f"neither a namespace nor a filter: {os.strerror(number)}")


# In the guard itself.


def watch(control: int, program: int) -> None:
    """Wait for the program's end, on the worker's word or by itself; then leave nothing alive."""
    poll = select.poll()
    poll.register(control, select.POLLIN)
    try:
        poll.register(os.pidfd_open(program), select.POLLIN)
        patience = 5_000  # only to reap what the program leaves behind meanwhile
    except (AttributeError, OSError):
        patience = 20
    while True:
        events = poll.poll(patience)
        end = reap(program)
        if end is not None:
            tell(control, b"ended %d %d %d" % (*end, end_survivors(program)))
            return
        if any(fd == control for fd, _ in events):
            try:
                order = os.read(control, 16)
            except OSError:
                order = b""
            if order and b"K" not in order:
                signal_group(program, SIGTERM)
            else:
                signal_group(program, SIGKILL)
                poll.unregister(control)


def signal_group(program: int, number: int) -> None:
    try:
        os.killpg(program, number)
    except OSError:
        pass  # nobody is left in it


def reap(program: int) -> tuple[int, int] | None:
    """Take the ends of children; answer the program's: exit code or minus signal, and its peak KiB."""
    try:
        while True:
            pid, status, used = os.wait4(-1, os.WNOHANG)
            if pid == 0:
                return None
            if pid == program:
                memory = used.ru_maxrss if LINUX else used.ru_maxrss // 1024
                return os.waitstatus_to_exitcode(status), memory
    except ChildProcessError:
        return None


def end_survivors(program: int) -> int:
    """Kill what the program left behind; answer how many there were.

    All of it is below this process, its subreaper. Without that (not Linux) only the group dies.
    """
    if not has_children():
        signal_group(program, SIGKILL)
        return 0
    found = set(descendants(os.getpid()))
    # The group in one call: a fork bomb outruns any list of processes.
    signal_group(program, SIGKILL)
    stop = time.monotonic() + KILL_PATIENCE
    pause = 0.001
    while has_children() and time.monotonic() < stop:
        for pid in descendants(os.getpid()):
            found.add(pid)
            try:
                os.kill(pid, SIGKILL)
            except OSError:
                pass  # gone already, or of another user
        time.sleep(pause)
        pause = min(pause * 2, 0.1)
    return len(found)


def has_children() -> bool:
    """Take the ends of children; answer whether any are left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def descendants(root: int) -> list[int]:
    """Every living process below `root`."""
    children: dict[int, list[int]] = {}
    if not LINUX:
        return []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    state, parent = file.read().rpartition(b")")[2].split()[:2]
            except OSError:
                continue  # it has just ended
            if state != b"Z":
                children.setdefault(int(parent), []).append(int(name))
    below = list(children.get(root, ()))
    for pid in below:  # grows while it is walked
        below += children.get(pid, ())
    return below


def tell(control: int, line: bytes) -> None:
    try:
        os.write(control, line + b"\n")
    except OSError:
        pass  # the worker is gone: nobody is left to tell


if __name__ == "__main__":
    main(sys.argv[1:])
    os._exit(0)  # nothing to tidy up: a normal exit takes longer than all the rest

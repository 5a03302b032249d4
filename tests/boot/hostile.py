# SPDX-License-Identifier: Apache-2.0
"""A worker that was taken over: it runs in a worker's unit in place of the worker, and tries all.

Runs in the machine, by the worker's own interpreter. Each thing that it brings off is a line that
begins with SUCCEEDED in the journal of its unit. What it leaves in its directory is made to trip
whoever looks at it.
"""

import contextlib
import ctypes
import hashlib
import json
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc

from callsd_ipc.v1 import worker_pb2, worker_pb2_grpc


TARGETS = Path("/opt/hostile/targets.json")
LIBC = ctypes.CDLL(None, use_errno=True)
PTRACE_ATTACH = 16
CLONE_NEWUSER = 0x10000000
SECRET = "/run/callsd/owner.token"

Attempt = Callable[[], object]


def listed(path: str | Path) -> list[str]:
    """What lies in a directory."""
    return [one.name for one in Path(path).iterdir()]


def others(path: str, own: str) -> list[str]:
    """What lies in a directory that is not ours."""
    return [name for name in listed(path) if name != own] or refuse("nothing but our own")


def refuse(why: str) -> Any:
    """It was not brought off."""
    raise PermissionError(why)


def connect(path: str) -> str:
    """Reach a socket."""
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(3)
        one.connect(path)
    return "connected"


def command(*words: str) -> str:
    """Run a program that tells by its exit code whether it worked."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout if done.returncode == 0 else refuse(done.stderr)


def call(name: str, *arguments: Any) -> int:
    """A system call of the C library's."""
    result = getattr(LIBC, name)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)


def read_memory(pid: int) -> int:
    """Take some bytes out of another process."""

    class Vector(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))

    into = ctypes.create_string_buffer(8)
    ours, theirs = Vector(ctypes.addressof(into), 8), Vector(0x400000, 8)
    return call("process_vm_readv", pid, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0)


def send_through_handle(pid: int) -> None:
    """Signal a process by a handle instead of by its number."""
    signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGWINCH)


def to_another_process(who: str, pid: int) -> Iterator[tuple[str, Attempt]]:
    """What may be tried with a process."""
    for name in ("root", "cwd", "fd", "task"):
        yield f"{who}: list {name}", lambda name=name: listed(f"/proc/{pid}/{name}")  # type: ignore[misc]
    for name in ("environ", "mem", "maps", "cmdline", "root/run/callsd/owner.token"):
        yield f"{who}: read {name}", Path(f"/proc/{pid}/{name}").read_bytes
    yield f"{who}: kill", lambda: os.kill(pid, signal.SIGKILL)
    yield f"{who}: signal by handle", lambda: send_through_handle(pid)
    yield f"{who}: ptrace", lambda: call("ptrace", PTRACE_ATTACH, pid, 0, 0)
    yield f"{who}: read memory", lambda: read_memory(pid)
    yield f"{who}: take a descriptor", lambda: call("syscall", 438, os.pidfd_open(pid), 3, 0)
    yield f"{who}: limit", lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE, (8, 8))
    yield f"{who}: priority", lambda: os.setpriority(os.PRIO_PROCESS, pid, 19)


def to_files(own: str, targets: dict[str, Any]) -> Iterator[tuple[str, Attempt]]:
    """What may be tried with the files of others."""
    state = "/var/lib/callsd"
    for path in targets["files"]:
        yield f"read {path}", Path(path).read_bytes
        yield f"write {path}", lambda path=path: Path(path).open("ab").close()  # type: ignore[misc]
    for name in ("", "/jobs", "/models", "/uploads", "/trash", "/captioners"):
        yield f"list {state}{name}", lambda name=name: others(state + name, "workers")  # type: ignore[misc]
    for path in (f"{state}/workers", "/run/callsd/bootstrap"):
        yield f"list {path}", lambda path=path: others(path, own)  # type: ignore[misc]
        other = Path(path) / targets["victim_name"]
        yield f"list {other}", lambda other=other: listed(other)  # type: ignore[misc]
    for place in (state, "/run", "/run/callsd", "/run/callsd/workers", "/opt/callsd", "/etc"):
        yield f"write in {place}", (Path(place) / "mark").touch
    yield "remove the workers' socket", Path("/run/callsd/workers/door.sock").unlink
    yield "link the workers' socket", lambda: os.link("/run/callsd/workers/door.sock", "door")
    yield "list /etc/callsd", lambda: listed("/etc/callsd")


def to_services(targets: dict[str, Any]) -> Iterator[tuple[str, Attempt]]:
    """What may be tried with whoever listens."""
    for path in (
        *("/run/callsd/callsd.sock", "/run/dbus/system_bus_socket", "/run/systemd/private"),
        *("/run/systemd/notify", "/run/systemd/journal/socket"),
        *("\0/org/freedesktop/systemd1/notify", "\0callsd"),
    ):
        yield f"connect {path!r}", lambda path=path: connect(path)  # type: ignore[misc]
    systemctl = ("systemctl", "--no-ask-password")
    for unit in (targets["own_unit"], targets["victim_unit"], "callsd.service"):
        limits = (unit, "MemoryMax=infinity")
        yield (
            f"limits of {unit}",
            lambda limits=limits: command(  # type: ignore[misc]
                *systemctl, "set-property", "--runtime", *limits
            ),
        )
        yield f"kill {unit}", lambda unit=unit: command(*systemctl, "kill", unit)  # type: ignore[misc]
    yield "start", lambda: command(*systemctl, "start", targets["other_unit"])
    yield "bus", lambda: command("busctl", "call", "org.freedesktop.systemd1", "/", "x", "x")
    for name in ("cgroup.procs", "memory.max", "cpu.max"):
        group = Path("/proc/self/cgroup").read_text().strip().rpartition(":")[2]
        path = f"/sys/fs/cgroup{group}/{name}"
        yield f"write {path}", lambda path=path: Path(path).write_text("max")  # type: ignore[misc]
    yield "list control groups", lambda: listed("/sys/fs/cgroup")
    yield "network", lambda: socket.socket(socket.AF_INET)
    yield "raw network", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)


def to_itself() -> Iterator[tuple[str, Attempt]]:
    """How it may try to become more than it is."""
    mine = Path("mine")
    mine.touch()
    for mode in (0o4755, 0o2755):
        yield f"chmod {mode:o}", lambda mode=mode: mine.chmod(mode)  # type: ignore[misc]
    yield "chmod of the directory", lambda: Path().chmod(0o777)
    yield "chown", lambda: os.chown(mine, 0, 0)
    yield "chown to the daemon", lambda: os.chown(mine, TARGETS.stat().st_uid, -1)
    yield "setuid", lambda: os.setuid(0)
    yield "setgid", lambda: os.setgid(0)
    yield "setgroups", lambda: os.setgroups([0])
    yield "device", lambda: os.mknod("disk", stat.S_IFBLK | 0o666, os.makedev(8, 0))
    yield "user namespace", lambda: call("unshare", CLONE_NEWUSER)
    yield "mount", lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, None)
    yield "chroot", lambda: os.chroot(".")
    yield "niceness", lambda: os.nice(-5)
    yield "sudo", lambda: command("su", "-c", "true")


def to_the_door(
    bootstrap: worker_pb2.Bootstrap, own: str, victim: str
) -> Iterator[tuple[str, Attempt]]:
    """What may be tried where it is let in."""

    def hello(job: str, generation: int) -> worker_pb2.Hello:
        return worker_pb2.Hello(
            job_id=job, generation=generation, token=bootstrap.token, protocol_version=2
        )

    def session(first: worker_pb2.Hello) -> str:
        with grpc.insecure_channel(bootstrap.endpoint) as channel:
            stub = worker_pb2_grpc.WorkerServiceStub(channel)
            reports = iter([worker_pb2.SessionRequest(hello=first)])
            return str(next(iter(stub.Session(reports, timeout=20))))

    def read(name: str) -> str:
        request = worker_pb2.ReadFileRequest(hello=hello(own, bootstrap.generation), name=name)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as one:
            one.settimeout(20)
            one.connect(bootstrap.file_socket)
            one.send(request.SerializeToString())
            answer, descriptors, _, _ = socket.recv_fds(one, 4096, 1)
        return "a descriptor" if descriptors else refuse(answer.decode())

    yield "be another worker", lambda: session(hello(victim, 1))
    yield "be the next worker", lambda: session(hello(own, bootstrap.generation + 1))
    for name in ("media/9", "model/../../../tokens.json", SECRET, "../owner.token", ""):
        yield f"ask for {name!r}", lambda name=name: read(name)  # type: ignore[misc]


def tell(line: str) -> None:
    """Say something to the journal."""
    print(line, flush=True)  # noqa: T201 - this is how it reports


def try_all(attempts: Iterator[tuple[str, Attempt]]) -> None:
    """Tell of each attempt how it went."""
    for name, attempt in attempts:
        try:
            tell(f"SUCCEEDED {name}: {attempt()!r:.200}")
        except BaseException as problem:  # noqa: BLE001 - whatever kept it from that
            tell(f"refused {name}: {type(problem).__name__}: {str(problem)[:120]!r}")


# What it leaves


def clear() -> None:
    """Make room for something worse."""
    for path in Path().iterdir():
        with contextlib.suppress(OSError):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def leave_traps() -> None:
    """Pipes, links, sockets, and directories that nobody else can enter or empty."""
    clear()
    os.mkfifo("outcome.binpb", 0o666)
    os.mkfifo("exit", 0o666)
    Path("log.txt").symlink_to(SECRET)
    artifacts = Path("artifacts")
    artifacts.mkdir()
    os.mkfifo(artifacts / "transcript.vtt")
    (artifacts / "transcript.txt").symlink_to(SECRET)
    (artifacts / "..transcript").touch()
    socket.socket(socket.AF_UNIX).bind("socket")
    closed = Path("closed")
    (closed / "inner").mkdir(parents=True)
    (closed / "inner/file").touch()
    (closed / "inner").chmod(0)
    closed.chmod(0)
    sticky = Path("sticky")
    sticky.mkdir()
    (sticky / "file").touch()
    sticky.chmod(0o1770)


def leave_worse_traps() -> None:
    """Directories in place of files, and links in place of directories."""
    clear()
    for name in ("outcome.binpb", "exit"):
        Path(name).mkdir()
        (Path(name) / "file").touch()
        Path(name).chmod(0)
    os.mkfifo("log.txt")
    Path("artifacts").symlink_to("/var/lib/callsd/jobs")
    Path("pieces").symlink_to("/")
    Path("inputs").symlink_to("/run/callsd")


def cheat(bootstrap: worker_pb2.Bootstrap) -> Iterator[tuple[str, Attempt]]:
    """Say that the work is done, and name files that are none."""
    from callsd_worker.session.client import Session

    clear()
    artifacts = Path("artifacts")
    artifacts.mkdir()
    (artifacts / "secret.txt").symlink_to(SECRET)
    size, digest = 43, hashlib.sha256(b"").hexdigest()
    outcome = worker_pb2.Outcome(
        generation=bootstrap.generation,
        artifacts=[worker_pb2.ArtifactFile(file_name="secret.txt", size_bytes=size, sha256=digest)],
        transcription=worker_pb2.TranscriptionOutcome(),
    )
    Path("outcome.binpb").write_bytes(outcome.SerializeToString())
    session = Session(bootstrap)
    session.start(20)
    session.deliver()
    link = artifacts / "secret.txt"
    yield "have a link taken", lambda: refuse("it is here") if link.is_symlink() else "gone"


def main() -> None:
    """Be the worker of one attempt: each does something else."""
    own = sys.argv[1]
    told = Path("/run/callsd/bootstrap") / own / "bootstrap"
    bootstrap = worker_pb2.Bootstrap.FromString(told.read_bytes())
    if bootstrap.HasField("salvage"):
        return
    targets = json.loads(TARGETS.read_text())
    tell(f"attempt {bootstrap.generation}")
    match bootstrap.generation:
        case 1:
            try_all(to_another_process("daemon", targets["daemon"]))
            try_all(to_another_process("victim", targets["victim"]))
            try_all(to_files(own, targets))
            try_all(to_services({**targets, "own_unit": f"callsd-transcriber@{own}.service"}))
            try_all(to_the_door(bootstrap, own, targets["victim_name"]))
            try_all(to_itself())
            leave_traps()
        case 2:
            leave_worse_traps()
        case _:
            try_all(cheat(bootstrap))
    tell(f"ended {bootstrap.generation}")
    os._exit(7)


if __name__ == "__main__":
    main()

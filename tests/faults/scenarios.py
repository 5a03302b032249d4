# SPDX-License-Identifier: Apache-2.0
"""What can go wrong, numbered, and which tests outside of this directory prove something about it.

A test says which scenario it belongs to, and what it holds callsd to, by the marker
`scenario(number, criterion)`. Tests of other directories are named here instead: they are about
their subject first.
"""

TITLES = {
    1: "the daemon is killed at each step of CreateJob",
    2: "the daemon is killed with jobs in every state",
    3: "a worker is killed",
    4: "a worker leaves processes behind",
    5: "a worker does not want to end",
    6: "workers die again and again",
    7: "the machine restarts",
    8: "another version of the daemon takes over",
    9: "the daemon is asked to end",
    10: "the daemon is killed again and again under load",
    11: "the event loop stands still",
    12: "the disk is full",
    13: "a worker needs too much memory",
    14: "other programs take the processor",
    15: "many jobs at once",
    16: "the system has no more descriptors or processes",
    17: "control groups are missing, old or tight",
    26: "the database is damaged",
    27: "power is cut",
    28: "a model is damaged",
    35: "the clock jumps",
    37: "a worker floods its log",
    38: "a worker is killed while it publishes its result",
    41: "a start that cannot succeed",
    42: "the handbook is followed to the letter",
    43: "another program holds the database",
    50: "a worker was taken over",
    54: "something dies while a recording is brought to its thread",
    55: "a long recording is brought to its thread over a bad link",
    57: "something dies while a call is captured",
    58: "a call is captured over a bad link",
    63: "the disk fails, or takes its time",
}
"""Scenarios by number. Numbers are names: they are never given to something else."""

ELSEWHERE: dict[str, tuple[int, str]] = {
    "tests/store/test_crashes.py::TestKilled": (1, "what was acknowledged is there, nothing else"),
    "tests/host/test_processes.py::TestMarks": (4, "a process is known by its mark, not its pid"),
    "tests/workers/test_ending.py::TestDeath": (
        3,
        "WORKER_KILLED, with the signal or the exit code",
    ),
    "tests/workers/test_ending.py::TestRetries": (
        6,
        "only deaths that say nothing of the job are tried again",
    ),
    "tests/store/test_opening.py::TestMigrations": (
        8,
        "each step whole or not at all, with a copy",
    ),
    "tests/boot/test_operation.py::TestOperation::test_a_stalled_event_loop_is_noticed": (
        11,
        "systemd's watchdog ends it and starts another one",
    ),
    "tests/store/test_crashes.py::TestDiskFull": (12, "nothing is acknowledged that is not kept"),
    "tests/e2e/test_disk_full.py": (12, "DISK_FULL, and it recovers without a restart"),
    "tests/domain/test_ledger.py": (15, "10⁴ random steps: the ledger always balances"),
    "tests/host/test_probe.py::TestLimits": (17, "the tightest limit holds; the hardware without"),
    "tests/host/test_probe.py::TestPressure": (17, "a kernel that does not say is no error"),
    "tests/store/test_opening.py::TestForeign": (26, "a file that is not ours stays as it is"),
    "tests/store/test_opening.py::TestDamaged": (26, "damage is refused, with what to do"),
    "tests/store/test_opening.py::TestDamaged::test_locked": (
        26,
        "a store that somebody else holds is not called damaged",
    ),
    "tests/store/test_damage.py": (26, "damage is told from a disk that gives nothing back"),
    "tests/store/test_writing.py::TestDurability": (27, "files at each acknowledgement hold it"),
    "tests/store/test_beside.py": (43, "reads go on; writes are told to try again"),
    "tests/e2e/test_bad_models.py": (28, "real engines: MODEL_INVALID, never an empty result"),
    "tests/models/test_store.py": (28, "a damaged or forged model is not present"),
    "tests/recorder/test_joining.py::TestTornPieces": (38, "a torn piece costs what it lacks"),
    "tests/recorder/test_joining.py::TestNothing": (38, "what is not whole never has the name"),
    "tests/rpc/test_reasons.py": (42, "each reason of the list is produced by a test"),
    "tests/docs/test_docs.py": (42, "links, lists and the example in Python are true"),
}
"""Beginnings of test ids."""

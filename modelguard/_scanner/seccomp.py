"""seccomp-bpf (Linux 3.5 and newer): system calls that looking at a model never needs fail with EPERM.

The filter is classic BPF over ``struct seccomp_data`` (``linux/seccomp.h``, seccomp(2)); numbers are those of the kernel's own tables
(``arch/x86/entry/syscalls/syscall_64.tbl``, ``include/uapi/asm-generic/unistd.h``). It is a list of what is refused, because Python, torch
and drivers of graphics cards use hundreds of others; threads, ``fork`` and ``socketpair`` stay allowed.
"""

from __future__ import annotations

import ctypes
import errno
import platform

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_LOAD, _EQUAL, _GREATER_OR_EQUAL, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_REFUSE = 0x00050000 | errno.EPERM
_NUMBER_AT, _ARCH_AT = 0, 4
_X32 = 0x40000000
"""From here on x86-64 takes numbers for system calls of its x32 interface: the same calls under other names."""

_BOTH = {
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429, "fsopen": 430,
    "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_getfd": 438, "mount_setattr": 442, "fchmodat2": 452,
}  # fmt: skip
REFUSED: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (
        0xC000003E,
        {
            "socket": 41, "connect": 42, "bind": 49, "listen": 50, "execve": 59, "chmod": 90, "fchmod": 91, "chown": 92, "fchown": 93,
            "lchown": 94, "ptrace": 101, "syslog": 103, "pivot_root": 155, "chroot": 161, "acct": 163, "mount": 165, "umount2": 166,
            "swapon": 167, "swapoff": 168, "reboot": 169, "iopl": 172, "ioperm": 173, "init_module": 175, "delete_module": 176,
            "quotactl": 179, "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190, "removexattr": 197, "lremovexattr": 198,
            "fremovexattr": 199, "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250, "fchownat": 260, "fchmodat": 268,
            "unshare": 272, "perf_event_open": 298, "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310,
            "process_vm_writev": 311, "finit_module": 313, "kexec_file_load": 320, "bpf": 321, "execveat": 322, "userfaultfd": 323, **_BOTH,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "removexattr": 14, "lremovexattr": 15, "fremovexattr": 16, "umount2": 39,
            "mount": 40, "pivot_root": 41, "chroot": 51, "fchmod": 52, "fchmodat": 53, "fchownat": 54, "fchown": 55, "quotactl": 60,
            "acct": 89, "unshare": 97, "kexec_load": 104, "init_module": 105, "delete_module": 106, "syslog": 116, "ptrace": 117,
            "reboot": 142, "socket": 198, "bind": 200, "listen": 201, "connect": 203, "add_key": 217, "request_key": 218, "keyctl": 219,
            "execve": 221, "swapon": 224, "swapoff": 225, "perf_event_open": 241, "open_by_handle_at": 265, "setns": 268,
            "process_vm_readv": 270, "process_vm_writev": 271, "finit_module": 273, "bpf": 280, "execveat": 281, "userfaultfd": 282,
            "kexec_file_load": 294, **_BOTH,
        },
    ),
}  # fmt: skip
"""By machine: its audit number, and the numbers of the calls that are refused. Landlock knows nothing of modes, owners and attributes."""


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("if_true", ctypes.c_uint8), ("if_false", ctypes.c_uint8), ("value", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


def refuse(libc: ctypes.CDLL) -> bool:
    """Have the calls refused to this thread and all it starts; False where the machine or its kernel knows no such filter."""
    if platform.machine() not in REFUSED or ctypes.sizeof(ctypes.c_void_p) != 8:
        return False
    arch, calls = REFUSED[platform.machine()]
    numbers = sorted(calls.values())
    program = [(_LOAD, 0, 0, _ARCH_AT), (_EQUAL, 1, 0, arch), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, _NUMBER_AT)]
    program += [(_GREATER_OR_EQUAL, len(numbers) + 1, 0, _X32)]
    program += [(_EQUAL, len(numbers) - place, 0, number) for place, number in enumerate(numbers)]
    program += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)]
    instructions = (_Instruction * len(program))(*(_Instruction(*item) for item in program))
    filters = _Program(len(program), instructions)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return int(libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(filters), 0, 0)) == 0

"""What CPython has on Linux and not on macOS: "Availability" in the documentation of each module."""

from __future__ import annotations

MISSING = {
    "os": (
        "memfd_create|MFD_.*|eventfd.*|EFD_.*|pidfd_open|P_PIDFD|P_PID|P_PGID|P_ALL|waitid|getrandom|GRND_.*|pipe2"
        "|splice|SPLICE_.*|copy_file_range|posix_fadvise|posix_fallocate|POSIX_FADV_.*|.*xattr|XATTR_.*|fdatasync"
        "|[gs]etres[ug]id|sched_[gs]et(affinity|scheduler|param)|sched_param|sched_rr_get_interval|SCHED_(BATCH|IDLE)"
        "|unshare|setns|CLONE_.*|RWF_.*|O_(PATH|TMPFILE|DIRECT|LARGEFILE|NOATIME|RSYNC)"
    ),
    "signal": "pidfd_send_signal|sigtimedwait|sigwaitinfo|SIG(POLL|PWR|STKFLT|CLD|RTMIN|RTMAX)",
    "socket": (
        "SOCK_(CLOEXEC|NONBLOCK)|AF_(VSOCK|NETLINK|PACKET|ALG|CAN|TIPC|QIPCRTR|RDS)|VMADDR_.*|SO_VM_.*"
        "|MSG_(NOSIGNAL|CMSG_CLOEXEC|CONFIRM|ERRQUEUE|FASTOPEN|MORE)|SCM_CREDENTIALS"
        "|SO_(PEERCRED|PEERSEC|PASSCRED|PASSSEC|BINDTODEVICE|DOMAIN|PROTOCOL|MARK|PRIORITY)"
        "|TCP_(USER_TIMEOUT|KEEPIDLE|INFO|CORK|QUICKACK|DEFER_ACCEPT|LINGER2|SYNCNT|WINDOW_CLAMP|CONGESTION)"
    ),
    "select": "epoll|EPOLL.*",
    "fcntl": "F_([GS]ETPIPE_SZ|ADD_SEALS|GET_SEALS|SEAL_.*|OFD_.*|NOTIFY|[GS]ETLEASE|[GS]ETSIG|[GS]ETLKW?64)|DN_.*",
    "resource": "prlimit|RLIMIT_(MSGQUEUE|NICE|RTPRIO|RTTIME|SIGPENDING|OFILE)",
    "time": "CLOCK_(BOOTTIME|TAI)",
}
"""By module, the names of what is missing there, as a regular expression."""

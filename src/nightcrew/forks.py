"""Whether this process was forked since something was opened, which then is its parent's and not to be touched.

Asked several times for every job, so without a system call.
"""

from __future__ import annotations

import os

count = 0
"""How many forks lie between this process and the one that was started; what is opened remembers it."""


def _count() -> None:
    global count
    count += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count)

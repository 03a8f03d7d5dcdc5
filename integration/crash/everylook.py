#!/usr/bin/env python3
"""everylook.py FS TOP LOWER ERRNOS [PATTERN]: see everystep.sh, which makes the file systems.

The other calls of an operation: those by which the daemon looks at a layer, and changes nothing. Each fails once, by itself. The
operation then fails with that error, or gets past it, and is as well done as undisturbed: nothing is shown, read or left half,
nothing that is not there, and nothing is missing; once the fault is gone, all is as if it had never been.
"""

import errno
import os
import re
import sys
import time

from everystep import STAGE, Case, Checks, Lab, changes, must, same_step
from operations import OPERATIONS, READINGS

LOOKS = """openat openat2 statx fstatfs getdents64 readlinkat getxattr lgetxattr fgetxattr getxattrat listxattr llistxattr flistxattr
    listxattrat lseek pread64""".split()


class LookLab(Lab):
    calls = LOOKS
    # What is opened to be written to changes nothing, but that is not a look.
    is_step = staticmethod(lambda line: not changes(line) and "/dev/fuse" not in line)

    def mount(self):
        super().mount()
        self.said = os.path.getsize(self.log)
        tasks = f"/proc/{self.daemon.pid}/task"
        self.server = next(t for t in os.listdir(tasks) if open(f"{tasks}/{t}/comm").read().startswith("fuser-"))

    def serves(self, thread):
        """What watches the layers looks at them, too."""
        return thread == self.server

    def panicked(self):
        with open(self.log, errors="replace") as log:
            log.seek(self.said)
            return "failed inside" in log.read()


class LookCase(Case):
    def __init__(self, lab, prepare, operation):
        self.read = None
        super().__init__(lab, prepare, lambda view: setattr(self, "read", operation(view)))
        self.expected = self.read

    def looking(self, steps, at, error):
        self.read = None
        status, seen = self.disturbed(steps, at, f"error={error}")
        line = seen[at][2]
        must("(INJECTED)" in line, "the look did not fail")
        must(self.lab.daemon.poll() is None, "the daemon has died")
        must(not self.lab.panicked(), "a request has failed inside")
        must(status in (0, getattr(errno, error)), f"{errno.errorcode.get(status)} for {error}")
        must(status != 0 or self.read == self.expected, f"{self.read!r}, not {self.expected!r}")
        state, left = self.settle(), self.lab.left_over()
        # What cannot be cleared away once all is done waits for the next mount.
        clears = status == 0 and STAGE in line and all(name.startswith("work/") for name in left)
        must(not left or clears, f"left over: {left}")
        if self.before != self.after:
            must((state == "after") == (status == 0), f"{errno.errorcode.get(status, 'done')}, and it is as {state} the operation")
        self.check_live(state)
        if left:
            self.lab.umount()
            self.lab.mount()
        self.finish(state)


def main():
    fs, top, lower, errors, *pattern = sys.argv[1:]
    os.umask(0o022)
    lab = LookLab(top, lower)
    checks, all_looks = Checks(lab), 0
    for name, prepare, operation in READINGS + OPERATIONS:
        if not re.search(pattern[0] if pattern else "", name):
            continue
        begun, was = time.time(), checks.failed
        case = LookCase(lab, prepare, operation)
        looks = checks.check(f"{fs}, {name}", case.plain) or []
        for at, (_, _, line) in enumerate(looks):
            for error in errors.split(","):
                where = f"{fs}, {name}, look {at + 1} of {len(looks)}, {same_step(line)}, {error}"
                checks.check(where, case.looking, looks, at, error)
        all_looks += len(looks)
        if checks.failed == was:
            print(f"ok    {fs}, {name}: {len(looks)} looks, {time.time() - begun:.1f} s", flush=True)
    checks.end(f"every look, {fs}, {all_looks} of them")


if __name__ == "__main__":
    main()

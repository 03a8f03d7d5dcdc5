#!/usr/bin/env python3
"""everystep.py FS TOP LOWER ERRNOS [PATTERN]: see everystep.sh, which makes the file systems.

An operation's steps are the system calls with which the daemon changes its store. strace records them once; then, each time
over fresh layers, it kills the daemon as it enters step N (the call is not carried out), or makes step N fail. The judge is the
kernel's overlayfs over the same layers: what it shows is the state before the operation or the one after it, which is what
overlayfs itself makes of that operation; nothing between.
"""

import errno
import hashlib
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time

from operations import OPERATIONS, dress, make_lower

CALLS = """openat openat2 ioctl copy_file_range ftruncate pwrite64 write fallocate fchown fchownat chmod fchmod fchmodat fchmodat2
    setxattr lsetxattr fsetxattr removexattr fremovexattr utimensat fsync fdatasync linkat mkdirat mknodat symlinkat renameat2
    unlinkat""".split()
STAGE = ".wh..statelite."


def changes(line):
    """Does this call change a store? Opening changes one only where something is made."""
    call = line.split("(", 1)[0]
    if call in ("openat", "openat2"):
        return any(flag in line for flag in ("O_TMPFILE", "O_CREAT", "O_TRUNC"))
    return call != "ioctl" or "FICLONE" in line


def segments(path, size):
    """Where a file has data."""
    found, at = [], 0
    with open(path, "rb") as f:
        while at < size:
            try:
                data = os.lseek(f.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            at = os.lseek(f.fileno(), data, os.SEEK_HOLE)
            found.append((data, at))
    return found


def snapshot(top, numbers=None):
    """All that a view shows, but the times of directories and empty files (one may just have been emptied), and times that are
    of this run. NUMBERS gets st_ino by path."""
    shown = {}
    for here, dirs, names in os.walk(top):
        for path in [here] + [os.path.join(here, n) for n in names + [d for d in dirs if os.path.islink(os.path.join(here, d))]]:
            try:
                st = os.lstat(path)
            except FileNotFoundError:  # a whiteout that overlayfs lists, in a directory that is not merged
                continue
            name = os.path.relpath(path, top)
            what = {"mode": oct(st.st_mode), "owner": (st.st_uid, st.st_gid)}
            what["attributes"] = {n: os.getxattr(path, n, follow_symlinks=False) for n in os.listxattr(path, follow_symlinks=False)
                                  if not n.startswith("trusted.overlay.")}
            if not stat.S_ISDIR(st.st_mode) and (st.st_size or not stat.S_ISREG(st.st_mode)):
                what["mtime"] = st.st_mtime if st.st_mtime < Lab.start else "of late"
            if stat.S_ISLNK(st.st_mode):
                what["target"] = os.readlink(path)
            elif stat.S_ISREG(st.st_mode):
                with open(path, "rb") as f:
                    what["content"] = hashlib.sha256(f.read()).hexdigest()[:16]
                what["data"] = (st.st_size, segments(path, st.st_size))
            elif stat.S_ISCHR(st.st_mode):
                what["device"] = st.st_rdev
            shown[name] = what
            if numbers is not None:
                numbers[name] = st.st_ino
    return shown


def difference(have, want):
    lines = [f"{p}: not there" for p in want if p not in have] + [f"{p}: is there" for p in have if p not in want]
    for path in have:
        for key, value in have[path].items():
            if path in want and want[path].get(key) != value:
                lines.append(f"{path}: {key} {value}, not {want[path].get(key)}")
    return "; ".join(sorted(lines))


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


class Failed(Exception):
    """What should hold does not."""


def must(true, why):
    if not true:
        raise Failed(why)


class Lab:
    """The layers, the view, and the daemon."""

    lower = upper = work = view = kernel = ""
    start = time.time() - 1
    # What is a step.
    calls, is_step = CALLS, staticmethod(changes)

    def __init__(self, top, lower):
        Lab.lower, Lab.upper, Lab.work = lower, top + "/upper", top + "/work"
        Lab.view, Lab.kernel = top + "/view", top + "/kernel"
        for d in (lower, self.view, self.kernel):
            os.makedirs(d, exist_ok=True)
        make_lower(lower)
        self.lower_was = snapshot(lower)
        self.trace, self.log = top + "/trace", top + "/daemon.log"
        self.daemon = self.strace = None

    def fresh(self, prepare):
        for d in (self.upper, self.work):
            shutil.rmtree(d, ignore_errors=True)
            os.makedirs(d)
        dress(self.upper, 0o755)
        prepare(self.upper)

    def mount(self):
        with open(self.log, "ab") as log:
            layers = ["--lower", self.lower, "--upper", self.upper, "--work", self.work]
            # One thread: strace counts the calls of each.
            command = [os.environ["STATELITE"], "mount", "--foreground", "--threads", "1", *layers, self.view]
            self.daemon = subprocess.Popen(command, stdout=log, stderr=log)
        end = time.time() + 20
        while not os.path.ismount(self.view):
            must(self.daemon.poll() is None and time.time() < end, "statelite did not mount")
            time.sleep(0.005)

    def umount(self, dead=False):
        if self.strace:
            self.stop_strace()
        if self.daemon:
            run("umount", *(["-l"] if dead else []), self.view)
            self.daemon.wait(20)
            self.daemon = None

    def off(self):
        """Whatever happened: nothing mounted, nothing running."""
        if self.daemon and self.daemon.poll() is None:
            self.daemon.kill()
        for m in (self.view, self.kernel):
            subprocess.run(["umount", "-l", m], capture_output=True)
        if self.daemon:
            self.daemon.wait()
        if self.strace:
            self.stop_strace()
        self.daemon = None

    def start_strace(self, *inject):
        command = ["strace", "-f", "-s", "300", "-o", self.trace, "-e", "trace=" + ",".join("?" + c for c in self.calls), "-e", "signal=none"]
        self.strace = subprocess.Popen([*command, *inject, "-p", str(self.daemon.pid)], stderr=subprocess.PIPE, text=True)
        line = self.strace.stderr.readline()
        must("attached" in line, f"strace: {line}{self.strace.stderr.read() if 'attached' not in line else ''}")

    def stop_strace(self):
        """The steps that were seen: (call, its number among those of that name, the line)."""
        if self.strace.poll() is None:
            self.strace.send_signal(signal.SIGTERM)
        self.strace.communicate()
        self.strace = None
        counts, steps, last = {}, [], None
        with open(self.trace, errors="replace") as lines:
            for thread, line in whole_calls(lines):
                call = re.match(r"[a-z]\w*(?=\()", line)
                # strace shows what it has no name for; of such calls the daemon makes only getxattrat and listxattrat.
                if call and not call[0].startswith("syscall_"):
                    # As strace counts them where it is to disturb one: those of each thread.
                    counts[thread, call[0]] = counts.get((thread, call[0]), 0) + 1
                    # Of a process that was killed, strace shows the first thread in the call that another one died in.
                    shadow = steps and thread != last and not re.search(r"\)\s+= ", line) and same_step(line) == same_step(steps[-1][2])
                    if self.is_step(line) and not shadow and self.serves(thread):
                        steps.append((call[0], counts[thread, call[0]], line))
                        last = thread
        return steps

    def serves(self, _thread):
        """Do this thread's calls count?"""
        return True

    def as_kernel_shows(self):
        run("mount", "-t", "overlay", "overlay", "-o", f"ro,lowerdir={self.upper}:{self.lower}", self.kernel)
        shown = snapshot(self.kernel)
        run("umount", self.kernel)
        return shown

    def by_kernel(self, operation):
        """What overlayfs makes of the operation."""
        options = f"lowerdir={self.lower},upperdir={self.upper},workdir={self.work},index=off,redirect_dir=nofollow,metacopy=off"
        run("mount", "-t", "overlay", "overlay", "-o", options, self.kernel)
        try:
            operation(self.kernel)
            return snapshot(self.kernel)
        finally:
            run("umount", self.kernel)

    def left_over(self):
        """Stages, wherever they are."""
        found = []
        for top in (self.upper, self.work):
            for here, dirs, names in os.walk(top):
                found += [os.path.relpath(os.path.join(here, n), os.path.dirname(top)) for n in dirs + names if n.startswith(STAGE)]
        return found


def attempt(lab, operation):
    """Zero or an errno. A daemon that does not answer is killed, which ends the wait."""
    watchdog = threading.Timer(20, lab.daemon.kill)
    watchdog.start()
    try:
        operation(lab.view)
        return 0
    except OSError as e:
        return e.errno
    finally:
        watchdog.cancel()


def whole_calls(lines):
    """The calls of all threads, with the thread's number. What strace shows in two parts, because another thread's call came in between, becomes one."""
    calls, begun = [], {}
    for line in lines:
        thread, line = line.split(None, 1)
        line, *cut = re.split(r" <(?:unfinished|detached) \.\.\.>", line.strip(), maxsplit=1)
        resumed = re.match(r"<\.\.\. \w+ resumed>(.*)", line)
        if resumed and thread in begun:
            calls[begun.pop(thread)][1] += resumed[1]
            continue
        if cut:
            begun[thread] = len(calls)
        calls.append([thread, line])
    return calls


def same_step(line):
    """A call without what differs from run to run."""
    return re.sub(r"\d+", "0", re.sub(r"/\*.*?\*/|\s+= .*", "", line).rstrip(" )"))


class Case:
    """One operation."""

    def __init__(self, lab, prepare, operation):
        self.lab, self.prepare, self.operation = lab, prepare, operation
        lab.fresh(prepare)
        self.before = lab.as_kernel_shows()
        try:
            self.after = lab.by_kernel(operation)
        except OSError:  # overlayfs itself leaves no whiteouts where nothing is below, and stumbles over them
            self.after = {path: what for path, what in self.before.items() if path != "made"}
        holes = {what["content"]: what["data"] for what in self.before.values() if "content" in what}
        for what in self.after.values():  # overlayfs does not keep all of them
            if what.get("content") in holes:
                what["data"] = holes[what["content"]]

    def plain(self):
        """Undisturbed, and the daemon killed once the operation is done; the steps."""
        lab, self.numbers, self.numbers_after = self.lab, {}, {}
        for _ in range(2):
            numbers = {}
            lab.fresh(self.prepare)
            lab.mount()
            wrong = difference(snapshot(lab.view, numbers), self.before)
            must(not wrong, f"the view is not overlayfs' before: {wrong}")
            # What this script puts in the upper has another number each time.
            self.numbers = {p: n for p, n in numbers.items() if self.numbers.get(p, n) == n}
            lab.umount()
        lab.mount()
        lab.start_strace()
        status = attempt(lab, self.operation)
        must(status == 0, f"undisturbed it fails: {errno.errorcode.get(status)}")
        steps = lab.stop_strace()
        lab.daemon.kill()
        lab.umount(dead=True)
        self.settle("after")
        lab.mount()
        snapshot(lab.view, self.numbers_after)
        lab.umount()
        return steps

    def settle(self, only=None):
        """Before or after? As overlayfs shows it."""
        shown = self.lab.as_kernel_shows()
        wrong = {which: difference(shown, want) for which, want in (("before", self.before), ("after", self.after))}
        for which in ("after", "before"):
            if not wrong[which] and only in (None, which):
                return which
        raise Failed(f"neither before ({wrong['before']}) nor after ({wrong['after']})" if only is None else f"not {only}: {wrong[only]}")

    def check_live(self, state):
        """The view shows that state, with the numbers of what was there already."""
        lab, numbers = self.lab, {}
        wrong = difference(snapshot(lab.view, numbers), getattr(self, state))
        must(not wrong, f"the view is not as {state} the operation: {wrong}")
        known = set(self.numbers.values())
        want = self.numbers if state == "before" else {p: n for p, n in self.numbers_after.items() if n in known}
        moved = [p for p in want if numbers.get(p) != want[p]]
        must(not moved, f"another st_ino: {moved}")

    def finish(self, state):
        """From either state, the operation gets to the end where it is not there yet; the kernel agrees."""
        if state == "before" or self.before == self.after:
            status = attempt(self.lab, self.operation)
            must(status == 0, f"once more, it fails: {errno.errorcode.get(status)}")
        self.check_live("after")
        must(self.lab.daemon.poll() is None, "the daemon has died")
        self.lab.umount()
        self.settle("after")
        must(not self.lab.left_over(), f"left over at the end: {self.lab.left_over()}")
        wrong = difference(snapshot(self.lab.lower), self.lab.lower_was)
        must(not wrong, f"the lower has changed: {wrong}")

    def disturbed(self, steps, at, fault):
        call, number, line = steps[at]
        for _ in range(3):
            self.lab.fresh(self.prepare)
            self.lab.mount()
            self.lab.start_strace("-e", f"inject={call}:{fault}:when={number}")
            status = attempt(self.lab, self.operation)
            if fault.startswith("signal"):
                self.lab.daemon.wait(20)
            seen = self.lab.stop_strace()
            if len(seen) > at and same_step(seen[at][2]) == same_step(line):
                return status, seen
            self.lab.off()
        raise Failed("the step is not there again")

    def killed(self, steps, at):
        _, seen = self.disturbed(steps, at, "signal=SIGKILL")
        must(len(seen) == at + 1, f"the daemon lived on: {seen[at + 1:]}")
        self.lab.umount(dead=True)
        state = self.settle()
        self.lab.mount()
        left = self.lab.left_over()
        must(not left, f"not cleaned up: {left}")
        self.check_live(state)
        self.finish(state)

    def failing(self, steps, at, error):
        status, seen = self.disturbed(steps, at, f"error={error}")
        call, _, line = seen[at]
        must("(INJECTED)" in line, "the step did not fail")
        must(self.lab.daemon.poll() is None, "the daemon has died")
        state, left = self.settle(), self.lab.left_over()
        if status == 0:
            # A reflink is tried, and data copied where there is none; what cannot be cleared away waits for the next mount; the
            # times of a directory in which a copy was made are put back as well as can be.
            tidies = call == "unlinkat" or call == "utimensat" and steps[at - 1][0] in ("linkat", "renameat2")
            must("FICLONE" in line or tidies, f"succeeds in spite of {error}")
            must(state == "after", "succeeds, and nothing was done")
        else:
            must(status == getattr(errno, error), f"{errno.errorcode.get(status)} for {error}")
            # Who empties a file may lose its data also where that fails, as with overlayfs.
            must(self.before == self.after or state == "before" or call == "ftruncate", "done, and yet it fails")
        must(not left or call == "unlinkat" and all(l.startswith("work/") for l in left), f"left over: {left}")
        self.check_live(state)
        if left:
            self.lab.umount()
            self.lab.mount()
        self.finish(state)


class Checks:
    """What was checked so far."""

    def __init__(self, lab):
        self.lab, self.passed, self.failed = lab, 0, 0

    def check(self, name, work, *args):
        try:
            result = work(*args)
            self.passed += 1
            return result
        except (Failed, RuntimeError, OSError, subprocess.TimeoutExpired) as e:
            print(f"FAIL  {name}: {e}", flush=True)
            self.failed += 1
        finally:
            self.lab.off()

    def end(self, what):
        print(f"{what}: {self.passed} passed, {self.failed} failed")
        sys.exit(1 if self.failed else 0)


def main():
    fs, top, lower, errors, *pattern = sys.argv[1:]
    os.umask(0o022)
    lab = Lab(top, lower)
    checks, all_steps = Checks(lab), 0
    check = checks.check

    for name, prepare, operation in OPERATIONS:
        if not re.search(pattern[0] if pattern else "", name):
            continue
        begun, was = time.time(), checks.failed
        case = Case(lab, prepare, operation)
        steps = check(f"{fs}, {name}", case.plain) or []
        for at, (call, _, line) in enumerate(steps):
            where = f"{fs}, {name}, step {at + 1} of {len(steps)}, {line.split(' = ')[0]}"
            check(f"{where}, killed", case.killed, steps, at)
            for error in errors.split(","):
                check(f"{where}, {error}", case.failing, steps, at, error)
        all_steps += len(steps)
        if checks.failed == was:
            print(f"ok    {fs}, {name}: {len(steps)} steps, {time.time() - begun:.1f} s", flush=True)
    checks.end(f"every step, {fs}, {all_steps} of them")


if __name__ == "__main__":
    main()

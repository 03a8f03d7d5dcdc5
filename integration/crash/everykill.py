#!/usr/bin/env python3
"""everykill.py FS TOP LOWER [PATTERN]: see everykill.sh, which makes the file systems.

The operations of everystep.py, in a root that `statelite serve` presents. The worker is killed as it enters each step of an operation,
and as it answers each of its requests: done, and not told. Another worker takes over, the kernel hands out again what was not
answered, and the operation's caller sees nothing but success: done once, and as the kernel's overlayfs would have done it.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

from everystep import CALLS, Case, Checks, Failed, Lab, attempt, changes, difference, must, same_step, snapshot
from operations import OPERATIONS


class ServeLab(Lab):
    """A node whose root is one persistent overlay of an image."""

    calls = [*CALLS, "writev"]
    is_step = staticmethod(lambda line: changes(line) or line.startswith("writev("))

    def __init__(self, top, image):
        os.makedirs(image)
        super().__init__(top, image + "/rootimg")
        Lab.upper, Lab.work, Lab.view = top + "/state/n1", top + "/work", top + "/roots/n1"
        os.makedirs(top + "/tables")
        for table, lines in {
            "nodelist": "#node,groups\nn1,all\n", "nodetype": "#node,provmethod\nn1,img\n",
            "osimage": "#imagename,provmethod\nimg,statelite\n", "linuximage": f"#imagename,rootimgdir\nimg,{image}\n",
            "litefile": "#image,file,options\nALL,/,persistent\n", "statelite": f"#node,statemnt\nn1,{top}/state\n",
        }.items():
            with open(f"{top}/tables/{table}.csv", "w") as f:
                f.write(lines)
        self.config = top + "/statelite.toml"
        with open(self.config, "w") as f:
            for key, value in {"tables": top + "/tables", "root": top + "/roots", "tmpfs_dir": top + "/tmpfs", "control": top + "/control.sock"}.items():
                f.write(f'{key} = "{value}"\n')
            f.write("compat_dirs = false\nwatch_tables = false\n")

    def as_kernel_shows(self):
        # The work directory of this upper is in its store; to the kernel it would be a directory like any other.
        shutil.rmtree(self.upper + "/.wh..statelite.work", ignore_errors=True)
        return super().as_kernel_shows()

    def left_over(self):
        return [name for name in super().left_over() if not name.endswith("/.wh..statelite.work")]

    def worker(self):
        """The one that serves: the holder's last child."""
        with open(f"/proc/{self.daemon.pid}/task/{self.daemon.pid}/children") as f:
            return int(f.read().split()[-1])

    def mount(self):
        with open(self.log, "ab") as log:
            command = [os.environ["STATELITE"], "--config", self.config, "serve"]
            self.daemon = subprocess.Popen(command, stdout=log, stderr=log)
        end = time.time() + 20
        while not os.path.ismount(self.view) or not self.server():
            must(self.daemon.poll() is None and time.time() < end, "statelite did not mount")
            time.sleep(0.005)

    def server(self):
        """The thread that serves the root."""
        try:
            tasks = f"/proc/{self.worker()}/task"
            return next((t for t in os.listdir(tasks) if open(f"{tasks}/{t}/comm").read().startswith("fuser-")), None)
        except (OSError, IndexError):
            return None

    def umount(self, dead=False):
        if self.strace:
            self.stop_strace()
        if self.daemon:
            self.daemon.terminate()
            self.daemon.wait(20)
            self.daemon = None

    def off(self):
        # Who is killed with the holder has its locks until it has ended, which strace delays.
        try:
            worker = self.worker()
        except (OSError, IndexError, AttributeError):
            worker = None
        super().off()
        if worker:
            wait_for(lambda: has_ended(worker), "the worker lives on")

    def start_strace(self, *inject):
        self.served_by = self.server()
        command = ["strace", "-s", "300", "-o", self.trace, "-f", "-e", "trace=" + ",".join("?" + c for c in self.calls), "-e", "signal=none"]
        self.strace = subprocess.Popen([*command, *inject, "-p", str(self.worker())], stderr=subprocess.PIPE, text=True)
        line = self.strace.stderr.readline()
        must("attached" in line, f"strace: {line}")

    def serves(self, thread):
        return thread == self.served_by


class KillCase(Case):
    def plain(self):
        """Undisturbed; the steps."""
        lab, self.numbers, self.numbers_after = self.lab, {}, {}
        for _ in range(2):
            lab.fresh(self.prepare)
            lab.mount()
            numbers = {}
            wrong = difference(snapshot(lab.view, numbers), self.before)
            must(not wrong, f"the view is not overlayfs' before: {wrong}")
            self.numbers = {p: n for p, n in numbers.items() if self.numbers.get(p, n) == n}
            lab.umount()
        lab.mount()
        lab.start_strace()
        status = attempt(lab, self.operation)
        must(status == 0, f"undisturbed it fails: {status}")
        steps = lab.stop_strace()
        must(len(steps) >= 3, f"a request is read, done and answered, and {len(steps)} steps were seen")
        snapshot(lab.view, self.numbers_after)
        lab.umount()
        self.settle("after")
        return steps

    def killed(self, steps, at):
        lab = self.lab
        call, number, line = steps[at]
        for _ in range(3):
            lab.fresh(self.prepare)
            lab.mount()
            first = lab.worker()
            lab.start_strace("-e", f"inject={call}:signal=SIGKILL:when={number}")
            status = attempt(lab, self.operation)
            seen = lab.stop_strace()
            if len(seen) > at and same_step(seen[at][2])[:40] == same_step(line)[:40]:
                break
            lab.off()
        else:
            # What one worker does of its own accord another may not.
            lab.unseen += 1
            return
        must(status == 0, f"it fails: {os.strerror(status)}")
        must(lab.daemon.poll() is None, "the holder has died")
        must(lab.worker() != first, "the worker lived on")
        self.check_live("after")
        lab.umount()
        must(not lab.left_over(), f"left over: {lab.left_over()}")
        self.settle("after")
        wrong = difference(snapshot(lab.lower), lab.lower_was)
        must(not wrong, f"the lower has changed: {wrong}")


def killed_while_it_tells(lab, by):
    """Whoever looks a name up has the directory's lock until there is an answer. Who tells the kernel of a change there waits for
    that lock and can't be killed meanwhile: the next worker comes all the same, and answers."""
    lab.fresh(lambda upper: None)
    lab.mount()
    first, tasks = lab.worker(), f"/proc/{lab.worker()}/task"

    def asks():
        """What the asker waits for an answer to, or that it waits no more."""
        if asker.poll() is not None:
            return "nothing"
        try:
            with open(f"/proc/{asker.pid}/stack") as f:
                stack = f.read()
        except ProcessLookupError:
            return None
        return stack if "request_wait_answer" in stack and "getxattr" not in stack else None

    for n in range(20):
        must(not os.path.exists(f"{lab.view}/a/b/other{n}"), "what is this?")
        # The first answer is of the root's ACL, which no kernel caches (fs/fuse/inode.c, fuse_init_inode: there is no INIT yet).
        strace = subprocess.Popen(["strace", "-o", "/dev/null", "-e", "inject=writev:delay_enter=60s:when=2+", "-p", lab.server()], stderr=subprocess.PIPE, text=True)
        must("attached" in strace.stderr.readline(), "strace does not attach")
        made = f"{lab.lower}/a/b/made{n}"
        asker = subprocess.Popen(["stat", f"{lab.view}/a/b/made{n}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        asked = wait_for(asks, "nobody asks")
        if "lookup_slow" in asked and "link_path_walk" not in asked:
            break
        # Something else was asked for first.
        strace.kill()
        strace.wait()
        asker.wait()
    else:
        raise Failed("nobody looks a name up")

    def waits():
        with_state = (open(f"{tasks}/{t}/stat").read() for t in os.listdir(tasks))
        return any(" (statelite-tell) D " in line for line in with_state)

    try:
        open(made, "w").close()
        wait_for(waits, "nobody waits for the directory")
        os.kill(first, by)
        # Not before: the answer would be on its way.
        wait_for(lambda: " Z " in open(f"/proc/{first}/stat").read(), "it lives on")
        strace.kill()
        said = asker.communicate(timeout=20)[1]
        must(asker.returncode == 0, f"it is not told of the change: {said}")
        must(lab.worker() != first, "the worker lived on")
        # The upper is the next one's, too.
        must(attempt(lab, lambda view: os.mkdir(view + "/a/b/new")) == 0, "nothing can be made")
        wait_for(lambda: not os.path.exists(f"/proc/{first}"), "the old worker stays")
    except subprocess.TimeoutExpired:
        raise Failed("nobody answers") from None
    finally:
        # The connection ends, so that nothing waits for ever.
        if asker.poll() is None:
            subprocess.run(["umount", "-f", lab.view], capture_output=True)
        strace.kill()
        strace.wait()
        if os.path.exists(made):
            os.remove(made)
    lab.umount()


def few(unseen, steps):
    must(unseen * 20 <= steps, f"{unseen} of {steps}")


def has_ended(pid):
    """It may not have been waited for: no thread of it is left but a dead one."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return ") Z " in f.read() and len(os.listdir(f"/proc/{pid}/task")) == 1
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_for(what, otherwise):
    end = time.time() + 20
    while not (found := what()):
        must(time.time() < end, otherwise)
        time.sleep(0.005)
    return found


def main():
    fs, top, image, *pattern = sys.argv[1:]
    os.umask(0o022)
    lab = ServeLab(top, image)
    checks, all_steps, lab.unseen = Checks(lab), 0, 0
    # A crash's dump waits for every thread.
    for by in (signal.SIGKILL, signal.SIGABRT):
        checks.check(f"{fs}, {by.name} while the kernel is told of a change", killed_while_it_tells, lab, by)
    for name, prepare, operation in OPERATIONS:
        if not re.search(pattern[0] if pattern else "", name):
            continue
        begun, was = time.time(), checks.failed
        case = KillCase(lab, prepare, operation)
        steps = checks.check(f"{fs}, {name}", case.plain) or []
        for at, (_, _, line) in enumerate(steps):
            checks.check(f"{fs}, {name}, step {at + 1} of {len(steps)}, {same_step(line)[:90]}, killed", case.killed, steps, at)
        all_steps += len(steps)
        if checks.failed == was:
            print(f"ok    {fs}, {name}: {len(steps)} steps, {time.time() - begun:.1f} s", flush=True)
    checks.check(f"{fs}, steps that were not seen again", few, lab.unseen, all_steps)
    checks.end(f"every kill, {fs}, {all_steps} of them")


if __name__ == "__main__":
    main()

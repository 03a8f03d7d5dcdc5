#!/usr/bin/env python3
"""soak.py TOP SECONDS NODES SEED: see soak.sh.

Every root is in use all the time by somebody who knows what each of its files must hold. Meanwhile the worker is killed, tables are
reloaded, nodes reset, the program replaced by a new one, tmpfs filled to the brim, and litetrees edited. Nobody may see an error
but ENOSPC where a tmpfs is full, nothing may be lost or torn, and neither memory nor descriptors may grow: the holder's from the
first quarter to the last, a worker's in the end, while it is left in peace for a sixth of the time and everybody works on.
"""

import errno
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time

STATELITE = os.environ["STATELITE"]


class Site:
    def __init__(self, top, nodes):
        self.top, self.nodes = top, [f"n{n}" for n in range(nodes)]
        for d in ("tables", "image/rootimg/opt", "image/rootimg/var/d", "image/rootimg/home", "image/rootimg/etc", "tree/etc", "state"):
            os.makedirs(f"{top}/{d}")
        for n in range(200):
            self.put(f"image/rootimg/opt/f{n}", f"file {n}\n" * (n + 1))
            self.put(f"image/rootimg/var/d/f{n}", f"below {n}\n")
        self.put("tree/etc/motd", "0\n")
        self.table("nodelist", "#node,groups", *[f"{n},all" for n in self.nodes])
        self.table("nodetype", "#node,provmethod", "all,img")
        self.table("osimage", "#imagename,provmethod", "img,statelite")
        self.table("linuximage", "#imagename,rootimgdir", f"img,{top}/image")
        self.table("statelite", "#node,statemnt", f"all,{top}/state")
        self.table("litetree", "#priority,image,directory", f"1,ALL,{top}/tree")
        self.rules()
        self.program = f"{top}/statelite"
        shutil.copy(STATELITE, self.program)
        self.put("statelite.toml", "".join(f'{k} = "{top}/{v}"\n' for k, v in {
            "tables": "tables", "root": "roots", "tmpfs_dir": "tmpfs", "control": "control.sock"}.items()) + 'tmpfs_size = "8M"\nwatch_tables = false\n')
        self.log = open(f"{top}/daemon.log", "ab")
        self.holder = subprocess.Popen([self.program, "--config", f"{top}/statelite.toml", "serve"], stdout=self.log, stderr=self.log)
        self.until("every root is mounted", lambda: all(os.path.ismount(self.at(n)) for n in self.nodes))

    def put(self, path, text):
        with open(f"{self.top}/{path}", "w") as f:
            f.write(text)

    def table(self, name, *lines):
        self.put(f"tables/{name}.csv.new", "\n".join(lines) + "\n")
        os.rename(f"{self.top}/tables/{name}.csv.new", f"{self.top}/tables/{name}.csv")

    def rules(self, *more):
        self.table("litefile", "#image,file,options", "ALL,/var/,tmpfs", "ALL,/home/,persistent", "ALL,/etc/motd,ro", *more)

    def at(self, node, path=""):
        return f"{self.top}/roots/{node}/{path}"

    def tell(self, *words):
        done = subprocess.run([self.program, "--config", f"{self.top}/statelite.toml", *words], capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise RuntimeError(f"statelite {' '.join(words)}: {done.returncode}: {done.stdout}{done.stderr}")

    def worker(self):
        with open(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children") as f:
            children = f.read().split()
        return int(children[-1]) if children else None

    @staticmethod
    def until(what, done, limit=60):
        end = time.time() + limit
        while not done():
            if time.time() > end:
                raise RuntimeError(f"waited in vain: {what}")
            time.sleep(0.02)


class User:
    """Who works in one root, and knows it."""

    def __init__(self, site, node, seed, report):
        self.site, self.node, self.random, self.report = site, node, random.Random(seed), report
        self.files, self.open, self.lock, self.full = {}, {}, threading.Lock(), False
        self.at_work = None
        for n in range(0, 200, 10):
            self.files[f"var/d/f{n}"] = f"below {n}\n".encode()

    def path(self, name):
        return self.site.at(self.node, name)

    def text(self):
        return bytes([self.random.randrange(97, 123)]) * self.random.choice((1, 100, 4096, 20000))

    def step(self):
        known = sorted(self.files)
        name = self.random.choice(known) if known and self.random.random() < 0.8 else f"{self.random.choice(('var', 'home'))}/x{self.random.randrange(40)}"
        self.at_work = name
        self.random.choice((self.read, self.read, self.write, self.append, self.rename, self.remove, self.hold, self.image))(name)

    def read(self, name):
        try:
            with open(self.path(name), "rb") as f:
                have = f.read()
        except FileNotFoundError:
            have = None
        want = self.files.get(name)
        if have != want:
            show = lambda x: x if x is None else (len(x), x[:8])
            raise AssertionError(f"{name} holds {show(have)}, not {show(want)}")

    def write(self, name):
        text = self.text()
        with open(self.path(name) + ".new", "wb") as f:
            f.write(text)
        os.rename(self.path(name) + ".new", self.path(name))
        self.files[name] = text

    def append(self, name):
        text = self.text()
        fd = os.open(self.path(name), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self.files.setdefault(name, b"")
        try:
            done = os.write(fd, text)
        finally:
            os.close(fd)
        self.files[name] = self.files.get(name, b"") + text[:done]

    def rename(self, name):
        to = f"{name.split('/')[0]}/x{self.random.randrange(40)}"
        if name in self.files and to != name:
            os.rename(self.path(name), self.path(to))
            self.files[to] = self.files.pop(name)

    def remove(self, name):
        if name in self.files:
            os.remove(self.path(name))
            del self.files[name]

    def hold(self, name):
        """A file stays open for a while, perhaps longer than its name."""
        for held, (f, want) in list(self.open.items()):
            # Who appends to it meanwhile makes it longer.
            have = os.pread(f.fileno(), len(want), 0)
            if have != want:
                raise AssertionError(f"what is open as {held} holds {len(have)} bytes of {have[:8]}, not {len(want)} of {want[:8]}")
            f.close()
            del self.open[held]
        if name in self.files:
            self.open[name] = (open(self.path(name), "rb"), self.files[name])

    def image(self, _name):
        n = self.random.randrange(200)
        with open(self.path(f"opt/f{n}")) as f:
            if f.read() != f"file {n}\n" * (n + 1):
                raise AssertionError(f"opt/f{n} is not the image's")

    def cut_short(self, name):
        """What a full file system has let through is known by looking: of the file that was at work, and no more than was to come."""
        before = self.files.pop(name, None)
        try:
            with open(self.path(name), "rb") as f:
                self.files[name] = f.read()
        except FileNotFoundError:
            pass
        have = self.files.get(name)
        if before and not (have or b"").startswith(before):
            raise AssertionError(f"{name} has lost something on a full file system: {len(before)} bytes, then {have and len(have)}")

    def work(self, stop):
        while not stop.is_set():
            with self.lock:
                self.report.steps += 1
                began = time.monotonic()
                try:
                    try:
                        self.step()
                    except OSError as e:
                        if e.errno != errno.ENOSPC or not self.full:
                            raise
                        self.report.full += 1
                        self.cut_short(self.at_work)
                except Exception as e:  # whatever it is: who is not at work any more sees nothing
                    self.report.error(f"{self.node}: {e!r}")
                    self.files = {}
                self.report.longest = max(self.report.longest, time.monotonic() - began)

    def check(self):
        for name in sorted(self.files):
            self.read(name)

    def reset(self):
        """Off, emptied, and on again."""
        with self.lock:
            for f, _ in self.open.values():
                f.close()
            self.open = {}
            self.site.tell("reset", "--force", self.node)
            self.files = {n: t for n, t in self.files.items() if n.startswith("home/")}
            self.check()

    def fill(self):
        with self.lock:
            self.full = True
        try:
            try:
                with open(self.path("var/fill"), "wb") as f:
                    while True:
                        f.write(bytes(1 << 20))
                        f.flush()
            except OSError as e:
                if e.errno != errno.ENOSPC:
                    raise
            time.sleep(0.2)
        finally:
            with self.lock:
                if os.path.exists(self.path("var/fill")):
                    os.remove(self.path("var/fill"))
                self.full = False


class Report:
    def __init__(self):
        self.steps = self.full = self.longest = 0
        self.errors, self.events, self.samples, self.peace = [], {}, [], []

    def error(self, text):
        self.errors.append(text)
        print(f"FAIL  {text}", flush=True)


def sample(pid):
    with open(f"/proc/{pid}/status") as f:
        rss = next((int(line.split()[1]) for line in f if line.startswith("VmRSS")), None)
    if rss is None:
        raise OSError(errno.ESRCH, "it has just ended")
    return rss, len(os.listdir(f"/proc/{pid}/fd"))


def main():
    top, seconds, nodes, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    chance, report = random.Random(seed), Report()
    site = Site(top, nodes)
    users = [User(site, node, seed * 1000 + n, report) for n, node in enumerate(site.nodes)]
    stop = threading.Event()
    threads = [threading.Thread(target=user.work, args=(stop,)) for user in users]
    for thread in threads:
        thread.start()
    edits = rules = 0

    def kill():
        site.until("a worker", site.worker)
        before = site.worker()
        os.kill(before, signal.SIGKILL)
        site.until("another worker", lambda: site.worker() not in (before, None))

    def reload():
        nonlocal rules
        rules += 1
        site.rules(*["ALL,/opt/extra,tmpfs"] * (rules % 2))
        site.tell("reload")

    def edit():
        nonlocal edits
        edits += 1
        site.put("tree/etc/motd", f"{edits}\n")
        seen = lambda: all(open(site.at(n, "etc/motd")).read() == f"{edits}\n" for n in site.nodes)
        site.until("a litetree's edit in every root", seen)

    def upgrade():
        shutil.copy(STATELITE, site.program + ".new")
        os.rename(site.program + ".new", site.program)
        site.tell("upgrade")

    events = [kill, kill, kill, reload, edit, upgrade, lambda: chance.choice(users).reset(), lambda: chance.choice(users).fill()]
    names = ["kill", "kill", "kill", "reload", "litetree edit", "upgrade", "reset", "full tmpfs"]
    end = time.time() + seconds
    while time.time() < end - seconds / 6:
        at = chance.randrange(len(events))
        try:
            events[at]()
            report.events[names[at]] = report.events.get(names[at], 0) + 1
        except (RuntimeError, OSError, TypeError, subprocess.TimeoutExpired) as e:
            report.error(f"{names[at]}: {e}")
        try:
            report.samples.append((sample(site.holder.pid), sample(site.worker())))
        except (OSError, TypeError):
            pass  # killed just now
        time.sleep(chance.random() * 0.5)
    site.until("a worker", site.worker)
    last = site.worker()
    while time.time() < end:
        report.peace.append((sample(site.holder.pid), sample(last)))
        time.sleep(0.1)
    if site.worker() != last:
        report.error("the worker was replaced, and nobody had killed it")
    stop.set()
    for thread in threads:
        thread.join()
    for user in users:
        try:
            for f, _ in user.open.values():
                f.close()
            user.check()
        except (OSError, AssertionError) as e:
            report.error(f"{user.node}, at the end: {e}")
    site.holder.terminate()
    if site.holder.wait(60):
        report.error(f"the holder ended with {site.holder.returncode}")
    for user in users:
        for name, text in user.files.items():
            if name.startswith("home/"):
                with open(f"{top}/state/{user.node}/{name}", "rb") as f:
                    if f.read() != text:
                        report.error(f"{user.node}: {name} is another one in the store")
    passed = 0

    def flat(name, who, samples):
        nonlocal passed
        quarter = max(1, len(samples) // 4)
        for of, what, room in (0, "KiB of memory", 8192), (1, "descriptors", 600):
            first, last = (statistics.median(s[who][of] for s in part) for part in (samples[:quarter], samples[-quarter:]))
            line = f"{name}: {first:.0f} {what} in the first quarter, {last:.0f} in the last"
            if last > first * 1.25 + room:
                report.error(line)
            else:
                passed += 1
                print(f"ok    {line}")

    flat("holder", 0, report.samples)
    # Each lives for seconds alone: what one leaves to the next.
    flat("one worker after the other", 1, report.samples)
    flat("the last worker, left in peace", 1, report.peace)
    passed += sum(report.events.values())
    print(f"{nodes} roots, {seconds} s, seed {seed}: {report.steps} operations, {report.full} of them on a full tmpfs; " +
          ", ".join(f"{n} {what}{'' if n == 1 else 's'}" for what, n in sorted(report.events.items())) + f"; the longest step took {report.longest:.2f} s")
    print(f"soak: {passed} passed, {len(report.errors)} failed")
    sys.exit(1 if report.errors else 0)


main()

#!/usr/bin/env python3
"""client.py MOUNT VIEW EVENT... [stays]: what a client of a view's NFS export sees, held against the view itself.

MOUNT is the client's mount of the export, VIEW the view on the server, or a second mount of it, and EVENT a command that does to
the server what its last argument says. Tables, image and zones are those of nfsd.sh. A line for each check; the status is the verdict.
Mount with actimeo=0, so that each look asks the server by its handle."""
import errno, fcntl, hashlib, mmap, os, select, signal, subprocess, sys, time

mount, view, event = sys.argv[1], sys.argv[2], sys.argv[3:]
failed = 0
# By NFSv4 the server holds what clients have open: the root can't be unmounted meanwhile, and where it goes all the same,
# such a file is lost to who has it open. By v3 there are handles alone.
holds = any(line.split()[1:3] == [mount, "nfs4"] for line in open("/proc/mounts"))


def check(name, test):
    """Runs one check; it fails with what it raises."""
    global failed
    began = time.monotonic()
    try:
        test()
        print(f"ok    {name} ({time.monotonic() - began:.1f} s)", flush=True)
    except Exception as why:  # whatever it is, the next one is to run
        failed += 1
        print("FAIL ", name + ":", repr(why)[:300], flush=True)


def at(path, base=mount):
    return os.path.join(base, path)


def happens(what):
    subprocess.run([*event, what], check=True, stdout=subprocess.DEVNULL)


def put(path, data):
    with open(path, "wb") as file:
        file.write(data)


def direct(fd, offset=0, size=4096):
    """What the server says is in a file: past the client's cache."""
    into = mmap.mmap(-1, size)
    got = os.preadv(fd, [into], offset)
    return bytes(into[:got])


def written(fd):
    data = mmap.mmap(-1, 4096)
    data[:] = PATTERN[:4096]
    return os.pwritev(fd, [data], 0)


def tree(base):
    """All there is below a directory: path, kind, mode, owner, size, links, contents."""
    found = {}
    for where, dirs, files in os.walk(base):
        for name in dirs + files:
            path = os.path.join(where, name)
            stat = os.lstat(path)
            what = [oct(stat.st_mode), stat.st_uid, stat.st_gid, stat.st_ino]
            if os.path.islink(path):
                what.append(os.readlink(path))
            elif not os.path.isdir(path):
                with open(path, "rb") as file:
                    what += [stat.st_size, hashlib.md5(file.read()).hexdigest()]
            found[os.path.relpath(path, base)] = what
    return found


def walk():
    ours, theirs = tree(at("usr")), tree(at("usr", view))
    assert len(theirs) > 500, len(theirs)
    wrong = [path for path in sorted(ours.keys() | theirs.keys()) if ours.get(path) != theirs.get(path)]
    assert not wrong, (len(wrong), [(path, ours.get(path), theirs.get(path)) for path in wrong[:3]])


def changes():
    top = at("var/changes")
    os.mkdir(top)
    put(top + "/a", b"one\n")
    with open(top + "/a", "ab") as file:
        file.write(b"two\n")
    os.rename(top + "/a", top + "/b")
    os.link(top + "/b", top + "/c")
    os.symlink("b", top + "/s")
    os.chown(top + "/b", 12, 34)
    os.chmod(top + "/b", 0o640)
    os.truncate(top + "/b", 5)
    for base in mount, view:
        stat = os.stat(at("var/changes/c", base))
        assert (stat.st_uid, stat.st_gid, stat.st_nlink, stat.st_mode & 0o7777) == (12, 34, 2, 0o640), stat
        assert open(at("var/changes/s", base)).read() == "one\nt"
        assert sorted(os.listdir(at("var/changes", base))) == ["b", "c", "s"]
    for name in "bcs":
        os.unlink(top + "/" + name)
    os.rmdir(top)
    assert not os.path.exists(at("var/changes", view))
    for path in "usr/new", "new":
        try:
            os.mkdir(at(path))
            raise AssertionError("made " + path)
        except OSError as error:
            assert error.errno == errno.EROFS, error


def many():
    top, names = at("var/many"), {f"f{n}" for n in range(10_000)}
    os.mkdir(top)
    for name in names:
        os.close(os.open(top + "/" + name, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    assert set(os.listdir(top)) == names and set(os.listdir(at("var/many", view))) == names
    for name in names:
        os.unlink(top + "/" + name)
    os.rmdir(top)


def listing():
    """20,000 names that stay, those of the image, listed while others come and go."""
    top, here = at("var/lib/names"), at("var/lib/names", view)
    stay = {f"stays {n}" for n in range(20_000)}
    names = []
    for n, entry in enumerate(os.scandir(top)):
        if entry.name in stay:
            names.append(entry.name)
        # Each of these is another directory to the client, which asks on from where it was.
        if n % 1000 == 0:
            put(here + f"/goes {n}", b"")
        elif n % 1000 == 500:
            os.unlink(here + f"/goes {n - 500}")
    assert len(names) == len(stay) and set(names) == stay, (len(names), len(set(names)))


def locks():
    """Two processes: who has it, who is refused, and who gets it next."""
    path = at("var/lock")
    put(path, b"")
    mine = os.open(path, os.O_RDWR)
    fcntl.lockf(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
    (told, tell), pid = os.pipe(), os.fork()
    if pid == 0:
        theirs = os.open(path, os.O_RDWR)
        try:
            fcntl.lockf(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os._exit(1)
        except BlockingIOError:
            os.write(tell, b"refused")
        fcntl.lockf(theirs, fcntl.LOCK_EX)
        os._exit(0 if os.pread(theirs, 9, 0) == b"let go of" else 2)
    assert os.read(told, 7) == b"refused"
    os.write(mine, b"let go of")
    fcntl.lockf(mine, fcntl.LOCK_UN)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(mine)


def lock_let_go():
    """A lock that a client holds does not keep the root from being unmounted."""
    path = at("var/lock held")
    put(path, PATTERN)
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    happens("remount")
    assert direct(fd, 4096) == PATTERN[4096:8192]
    os.close(fd)


PATTERN = b"".join(b"%07d\n" % n for n in range(4096))


class Held:
    """Open files and directories of the image and of the uppers, whose names the client has, too."""

    def __init__(self):
        self.image = os.open(at("usr/pattern"), os.O_RDONLY | os.O_DIRECT)
        self.dir = os.open(at("usr"), os.O_RDONLY | os.O_DIRECTORY)
        for zone in "var", "home":
            put(at(zone + "/held"), PATTERN)
            os.makedirs(at(zone + "/dir/in"), exist_ok=True)
        self.files = [os.open(at(zone + "/held"), os.O_RDWR | os.O_DIRECT) for zone in ("var", "home")]
        self.dirs = [os.open(at(zone + "/dir"), os.O_RDONLY | os.O_DIRECTORY) for zone in ("var", "home")]
        self.inodes = [os.fstat(fd).st_ino for fd in self.all()]

    def all(self):
        return [self.image, self.dir, *self.files, *self.dirs]

    def of_image(self):
        assert direct(self.image, 8192) == PATTERN[8192:12288]

    def of_uppers(self):
        for fd in self.files:
            assert direct(fd, 4096) == PATTERN[4096:8192]
            assert written(fd) == 4096

    def directories(self):
        assert "pattern" in os.listdir(self.dir)
        fd = os.open("pattern", os.O_RDONLY, dir_fd=self.dir)
        assert os.read(fd, 16) == PATTERN[:16]
        os.close(fd)
        for fd in self.dirs:
            assert os.listdir(fd) == ["in"]
            os.stat("in", dir_fd=fd)
        assert [os.fstat(fd).st_ino for fd in self.all()] == self.inodes

    def lost(self, files):
        """What is open; what of it the server's kernel has cached it may still give. By its name it is opened again."""
        for fd in files:
            fails(errno.EIO, lambda: written(fd))
        with open(at("usr/pattern"), "rb") as file:
            assert file.read() == PATTERN

    def close(self):
        for fd in self.all():
            os.close(fd)


def fails(number, use):
    try:
        use()
    except OSError as error:
        assert error.errno == number, error
        return
    raise AssertionError("no error")


class Busy:
    """A program that goes on while something happens: it makes, writes, reads, renames, lists and removes, and ends by itself at what
    is not as it should be."""

    def __init__(self):
        (began, begin), (stops, self.stop) = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.stop)
            try:
                self.works(begin, stops)
                os._exit(0)
            except BaseException as why:  # to the console, and the verdict to who waits
                print("      while it happened:", repr(why)[:300], flush=True)
                os._exit(1)
        os.close(begin)
        os.close(stops)
        assert os.read(began, 1), "it ended at once"
        os.close(began)

    @staticmethod
    def works(begin, stops):
        top, rounds = at("var/busy"), 0
        os.makedirs(top, exist_ok=True)
        while not select.select([stops], [], [], 0)[0]:
            put(top + "/a", PATTERN)
            os.rename(top + "/a", top + "/b")
            fd = os.open(top + "/b", os.O_RDWR | os.O_DIRECT)
            assert direct(fd, 4096) == PATTERN[4096:8192] and os.fstat(fd).st_size == len(PATTERN)
            os.close(fd)
            assert os.listdir(top) == ["b"]
            os.unlink(top + "/b")
            fd = os.open(at("usr/pattern"), os.O_RDONLY | os.O_DIRECT)
            assert direct(fd, 8192) == PATTERN[8192:12288]
            os.close(fd)
            rounds += 1
            if rounds == 1:
                os.write(begin, b"!")
        os.rmdir(top)

    def ends(self):
        """Once: its verdict."""
        os.close(self.stop)
        pid, self.pid = self.pid, None
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "who was busy meanwhile was not served"

    def gone(self):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)


def across(what):
    def test():
        held, busy = Held(), None
        # What a killed worker had begun to do is handed out again by kernels from 6.9 on: a guest's is older. A root that is not
        # mounted serves nobody.
        meanwhile = what not in ["remount", "restart"] and (stays or what not in ["replace", "upgrade"])
        try:
            if meanwhile:
                busy = Busy()
            if holds and what == "remount":
                in_use()
            else:
                happens(what)
            if busy:
                busy.ends()
            held.directories()
            if holds and what == "restart":
                held.lost(held.files)
            else:
                held.of_image()
                held.of_uppers()
        finally:
            held.close()
            if busy:
                busy.gone()

    return test


def name_of(what):
    """Of a check of [`across`]: what NFSv4's server holds open is lost where its root goes, and keeps it from going."""
    if holds and what == "remount":
        return "held while a remount is refused"
    if holds and what == "restart":
        return "names across restart, open files are lost"
    return "held across " + what


def in_use():
    """The command's exit code for that."""
    went = subprocess.run([*event, "umount"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert went.returncode == 5, went


def copy_up():
    fd = os.open(at("var/lib/pattern"), os.O_RDONLY | os.O_DIRECT)
    number = os.fstat(fd).st_ino
    happens("copy-up")
    assert direct(fd, 0, 4096)[:8] == b"changed\n"
    assert os.fstat(fd).st_ino == number
    os.close(fd)


def rename():
    put(at("var/before"), PATTERN)
    os.makedirs(at("var/dir before/in"))
    file = os.open(at("var/before"), os.O_RDONLY | os.O_DIRECT)
    dir = os.open(at("var/dir before"), os.O_RDONLY | os.O_DIRECTORY)
    happens("rename")
    if not holds and not stays:
        happens("remount")
    assert direct(file, 4096) == PATTERN[4096:8192]
    assert os.listdir(dir) == ["in"]
    assert os.listdir(at("var/dir after")) == ["in"] and not os.path.exists(at("var/before"))
    os.close(file)
    os.close(dir)


def without_tmpfs(what):
    """An event that leaves the image's and what is persistent, and nothing of the node's tmpfs."""

    def test():
        held = Held()
        happens(what)
        fails(errno.ESTALE, lambda: os.listdir(held.dirs[0]))
        assert os.listdir(held.dirs[1]) == ["in"] and "pattern" in os.listdir(held.dir)
        fails(errno.ESTALE, lambda: written(held.files[0]))
        if holds:
            held.lost(held.files[1:])
        else:
            assert direct(held.files[1], 4096) == PATTERN[4096:8192] and written(held.files[1]) == 4096
            held.of_image()
        assert not os.path.exists(at("var/held"))
        held.close()

    return test


def way_back():
    held = os.open(at("home/held"), os.O_RDWR | os.O_DIRECT)
    happens("return")
    assert direct(held, 4096) == PATTERN[4096:8192] and written(held) == 4096
    os.close(held)
    with open(at("var/held"), "rb") as file:
        assert file.read() == PATTERN


def gone():
    """A file and a directory. Where the server holds them open, they are there still: one with what it had, one empty."""
    put(at("var/gone"), PATTERN)
    os.mkdir(at("var/gone dir"))
    file = os.open(at("var/gone"), os.O_RDONLY | os.O_DIRECT)
    dir = os.open(at("var/gone dir"), os.O_RDONLY | os.O_DIRECTORY)
    happens("remove")
    if not holds and not stays:
        happens("remount")
    may_be_held(holds or stays, lambda: direct(file, 4096) == PATTERN[4096:8192])
    may_be_held(stays, lambda: os.listdir(dir) == [])
    for path in "var/gone", "var/gone dir":
        assert not os.path.exists(at(path))
    os.close(file)
    os.close(dir)


def may_be_held(held, is_as_before):
    try:
        as_before = is_as_before()
    except OSError as error:
        assert error.errno == errno.ESTALE, error
        return
    assert held and as_before, (held, as_before)


# "stays": the server's handles are of one mount, so what ends it is left out.
stays = event[-1] == "stays" and event.pop()
check("a walk of the tree is the view's own", walk)
check("changes, and what may not be changed", changes)
check("10,000 files", many)
check("a directory of 20,000 names that changes meanwhile", listing)
check("locks of two processes", locks)
for what in ["nothing", "drop-caches", "reload", "replace", "upgrade"] + ["remount", "restart"] * (not stays):
    check(name_of(what), across(what))
if not holds and not stays:
    check("a lock is let go of", lock_let_go)
check("held across a copy-up", copy_up)
check("held across a rename", rename)
if not stays:
    check("held across a reset: what is the image's or persistent", without_tmpfs("reset"))
if not holds and not stays:
    check("held by another server that takes over: what is the image's or persistent", without_tmpfs("takeover"))
    check("back on the first server, whose tmpfs has what stayed behind", way_back)
check("what was removed is stale", gone)
print("ended", flush=True)
sys.exit(failed != 0)

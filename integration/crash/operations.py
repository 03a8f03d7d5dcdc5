"""The layers that everystep.py works on, and the operations of which it disturbs each step."""

import ctypes
import errno
import os
import shutil
import stat
import struct

AGO = 1_000_000_000  # the times of all that is there before
LIBC = ctypes.CDLL(None, use_errno=True)
layers = {}


def rename2(a, b, flags):
    if LIBC.renameat2(-100, os.fsencode(a), -100, os.fsencode(b), flags) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def exchange(a, b):
    rename2(a, b, 2)


def acl(*entries):
    """(tag, permissions, id): 1 owner, 2 user, 4 group, 8 named group, 16 mask, 32 others."""
    none = 0xFFFFFFFF
    packed = [struct.pack("<HHI", tag, perm, rest[0] if rest else none) for tag, perm, *rest in entries]
    return struct.pack("<I", 2) + b"".join(packed)


ACCESS = acl((1, 7), (2, 4, 42), (4, 5), (16, 5), (32, 1))
DEFAULT = acl((1, 7), (2, 6, 42), (4, 5), (16, 7), (32, 0))
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)


def dress(path, mode, owner=(7, 1234), **attrs):
    os.chown(path, *owner, follow_symlinks=False)
    if mode is not None:
        os.chmod(path, mode)
    for name, value in attrs.items():
        try:
            os.setxattr(path, name.replace("_", ".", 1), value, follow_symlinks=False)
        except OSError as e:
            if e.errno != errno.EOPNOTSUPP:  # user.* on a tmpfs of Linux before 6.6
                raise
    os.utime(path, (AGO, AGO), follow_symlinks=False)


def file(path, text=b"lower\n", mode=0o640, **attrs):
    with open(path, "wb") as f:
        f.write(text)
    dress(path, mode, **attrs)


def make_lower(top):
    layers["lower"] = top
    at = lambda *names: os.path.join(top, *names)
    os.makedirs(at("a/b/c"))
    with open(at("rich"), "wb") as f:
        for offset in (0, 128 << 10):
            f.seek(offset)
            f.write(os.urandom(64 << 10))
        f.truncate(300 << 10)
    dress(at("rich"), 0o4751, user_k=b"v" * 300, trusted_k=b"t", system_posix_acl_access=ACCESS, security_capability=CAPABILITY)
    for name in ("file", "other", "gone", "a/b/c/file"):
        file(at(name), name.encode())
    for name, mode in (("holds", 0o750), ("empty", 0o1777), ("gonedir", 0o755), ("inherit", 0o2775), ("inherit/gonedir", 0o755)):
        os.mkdir(at(name))
    for name in ("holds/x", "holds/y", "gonedir/inner", "inherit/gonedir/inner", "inherit/gone", "inherit/stays"):
        file(at(name))
    os.symlink("some/where", at("link"))
    os.mkfifo(at("fifo"))
    os.mknod(at("device"), stat.S_IFCHR | 0o600, os.makedev(1, 3))
    for name, mode in (("link", None), ("fifo", 0o620), ("device", 0o606)):
        dress(at(name), mode, trusted_k=b"special")
    for name in ("inherit/gonedir", "gonedir", "empty", "holds"):
        dress(at(name), 0o755)
    dress(at("inherit"), 0o2775, system_posix_acl_default=DEFAULT)
    dress(at("a/b/c"), 0o2770, system_posix_acl_default=DEFAULT)
    dress(at("a/b"), 0o1777, user_k=b"deep")
    dress(at("a"), 0o711, owner=(8, 9))
    dress(top, 0o755)


def whiteout(path):
    os.mknod(path, stat.S_IFCHR, 0)


def upper_dir(path, *names, opaque=False):
    """A directory that only the upper has (opaque: whatever lies below)."""
    os.mkdir(path)
    for name in names:
        file(os.path.join(path, name), b"upper")
    dress(path, 0o710, **({"trusted_overlay.opaque": b"y"} if opaque else {}))


def merged(upper, name):
    """The upper's part of a lower directory."""
    lower = os.path.join(layers["lower"], name)
    os.mkdir(os.path.join(upper, name))
    os.chown(os.path.join(upper, name), os.stat(lower).st_uid, os.stat(lower).st_gid)
    shutil.copystat(lower, os.path.join(upper, name))


def emptied(upper):
    merged(upper, "holds")
    whiteout(upper + "/holds/x")
    whiteout(upper + "/holds/y")


def inheriting(upper):
    merged(upper, "inherit")
    whiteout(upper + "/inherit/gone")
    whiteout(upper + "/inherit/gonedir")


def copied(upper):
    file(upper + "/file", b"changed")


def opened(name, flags):
    return lambda v: os.close(os.open(v + name, flags, 0o666))


def with_attribute(upper):
    file(upper + "/file", b"changed", trusted_k=b"before")


def written(path, text, flags):
    fd = os.open(path, os.O_WRONLY | flags)
    try:
        os.write(fd, text)
    finally:
        os.close(fd)


def lengthened(path, size):
    fd = os.open(path, os.O_WRONLY)
    try:
        os.posix_fallocate(fd, 0, size)
    finally:
        os.close(fd)


def nothing(_upper):
    pass


def content(path):
    with open(path, "rb") as f:
        return f.read()


def listed(path):
    """What ls -l reads."""
    return sorted((e.name, e.stat(follow_symlinks=False).st_mode) for e in os.scandir(path))


def attributes(path):
    return {n: os.getxattr(path, n, follow_symlinks=False) for n in os.listxattr(path, follow_symlinks=False)}


def described(path):
    st = os.lstat(path)
    return st.st_mode, st.st_uid, st.st_gid, st.st_size


# The same, of operations that change nothing and return what they read.
READINGS = [
    ("read of a file", nothing, lambda v: content(v + "/rich")),
    ("read of a copied-up file", copied, lambda v: content(v + "/file")),
    ("stat deep below", nothing, lambda v: described(v + "/a/b/c/file")),
    ("listing of a lower directory", nothing, lambda v: listed(v + "/inherit")),
    ("listing of a merged directory", inheriting, lambda v: listed(v + "/inherit")),
    ("listing of an opaque directory", lambda u: upper_dir(u + "/holds", "n", opaque=True), lambda v: listed(v + "/holds")),
    ("reading a symlink", nothing, lambda v: os.readlink(v + "/link")),
    ("attributes of a lower file", nothing, lambda v: attributes(v + "/rich")),
    ("attributes of a directory", inheriting, lambda v: attributes(v + "/inherit")),
    ("an absence", nothing, lambda v: os.path.lexists(v + "/a/b/nothing")),
    ("a deleted name", inheriting, lambda v: os.path.lexists(v + "/inherit/gone")),
    ("the size of the file system", nothing, lambda v: os.statvfs(v + "/a").f_frsize),
]

# name, what the upper has before it, the operation
OPERATIONS = [
    ("copy-up of a file", nothing, opened("/rich", os.O_WRONLY)),
    ("copy-up of a file that is emptied", nothing, opened("/file", os.O_WRONLY | os.O_TRUNC)),
    ("copy-up of a file that is shortened", nothing, lambda v: os.truncate(v + "/file", 2)),
    ("copy-up of three directories", nothing, opened("/a/b/c/new", os.O_WRONLY | os.O_CREAT)),
    ("copy-up of a symlink", nothing, lambda v: os.lchown(v + "/link", 7, 1234)),
    ("copy-up of a FIFO", nothing, lambda v: os.chmod(v + "/fifo", 0o604)),
    ("copy-up of a device", nothing, lambda v: os.chmod(v + "/device", 0o664)),
    ("rename of a lower file", nothing, lambda v: os.rename(v + "/file", v + "/a/new")),
    ("rename over a lower file", nothing, lambda v: os.rename(v + "/rich", v + "/other")),
    ("rename of a file over a whiteout", lambda u: whiteout(u + "/gone"), lambda v: os.rename(v + "/file", v + "/gone")),
    ("rename of a directory over a whiteout", lambda u: (upper_dir(u + "/made", "n"), whiteout(u + "/gonedir")),
     lambda v: os.rename(v + "/made", v + "/gonedir")),
    ("rename of an opaque directory", lambda u: upper_dir(u + "/holds", "n", opaque=True),
     lambda v: os.rename(v + "/holds", v + "/new")),
    ("rename of an opaque directory over a whiteout",
     lambda u: (upper_dir(u + "/holds", "n", opaque=True), whiteout(u + "/gonedir")),
     lambda v: os.rename(v + "/holds", v + "/gonedir")),
    ("rename of a directory over an empty lower one", lambda u: upper_dir(u + "/made", "n"),
     lambda v: os.rename(v + "/made", v + "/empty")),
    ("rename of a directory over one full of whiteouts", lambda u: (upper_dir(u + "/made", "n"), emptied(u)),
     lambda v: os.rename(v + "/made", v + "/holds")),
    ("exchange of lower files", inheriting, lambda v: exchange(v + "/rich", v + "/inherit/stays")),
    ("exchange of a directory and a lower file", lambda u: upper_dir(u + "/made", "n"),
     lambda v: exchange(v + "/made", v + "/other")),
    ("exchange of opaque directories",
     lambda u: (upper_dir(u + "/holds", "n", opaque=True), upper_dir(u + "/made", "m")),
     lambda v: exchange(v + "/made", v + "/holds")),
    ("unlink of a lower file", inheriting, lambda v: os.unlink(v + "/inherit/stays")),
    ("unlink of a copied-up file", copied, lambda v: os.unlink(v + "/file")),
    ("rmdir of a lower directory", nothing, lambda v: os.rmdir(v + "/empty")),
    ("rmdir of a merged directory full of whiteouts", emptied, lambda v: os.rmdir(v + "/holds")),
    ("rmdir of an upper directory with whiteouts", lambda u: (upper_dir(u + "/made"), whiteout(u + "/made/w")),
     lambda v: os.rmdir(v + "/made")),
    ("create over a whiteout", inheriting, opened("/inherit/gone", os.O_WRONLY | os.O_CREAT | os.O_EXCL)),
    ("mkdir over a whiteout", inheriting, lambda v: os.mkdir(v + "/inherit/gonedir", 0o777)),
    ("mkfifo over a whiteout", inheriting, lambda v: os.mkfifo(v + "/inherit/gonedir", 0o777)),
    ("symlink over a whiteout", inheriting, lambda v: os.symlink("to", v + "/inherit/gone")),
    ("link over a whiteout", inheriting, lambda v: os.link(v + "/rich", v + "/inherit/gone")),
    # What the upper has alone.
    ("create in an upper directory", lambda u: upper_dir(u + "/made"), opened("/made/new", os.O_WRONLY | os.O_CREAT | os.O_EXCL)),
    ("mkdir in an upper directory", lambda u: upper_dir(u + "/made"), lambda v: os.mkdir(v + "/made/new")),
    ("symlink in an upper directory", lambda u: upper_dir(u + "/made"), lambda v: os.symlink("to", v + "/made/new")),
    ("link in an upper directory", lambda u: upper_dir(u + "/made", "n"), lambda v: os.link(v + "/made/n", v + "/made/new")),
    ("rename in an upper directory", lambda u: upper_dir(u + "/made", "n"), lambda v: os.rename(v + "/made/n", v + "/made/new")),
    ("rename in an upper directory to what must not be there", lambda u: upper_dir(u + "/made", "n"),
     lambda v: rename2(v + "/made/n", v + "/made/new", 1)),
    ("unlink in an upper directory", lambda u: upper_dir(u + "/made", "n"), lambda v: os.unlink(v + "/made/n")),
    ("rmdir of an upper directory", lambda u: upper_dir(u + "/made"), lambda v: os.rmdir(v + "/made")),
    ("emptying of an upper file", copied, opened("/file", os.O_WRONLY | os.O_TRUNC)),
    ("append to an upper file", copied, lambda v: written(v + "/file", b"x", os.O_APPEND)),
    ("fallocate of an upper file", copied, lambda v: lengthened(v + "/file", 90)),
    ("an attribute of an upper file that must be new", copied, lambda v: os.setxattr(v + "/file", "trusted.k", b"now", os.XATTR_CREATE)),
    ("an attribute of an upper file that must be there", with_attribute, lambda v: os.setxattr(v + "/file", "trusted.k", b"now", os.XATTR_REPLACE)),
    ("removal of an attribute of an upper file", with_attribute, lambda v: os.removexattr(v + "/file", "trusted.k")),
]

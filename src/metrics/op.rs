//! The operations that are told apart.

macro_rules! ops {
    ($($variant:ident $name:literal)*) => {
        /// A kind of FUSE request.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        #[allow(missing_docs, reason = "each is FUSE's operation of that name")]
        #[repr(u8)]
        pub enum Op { $($variant),* }

        impl Op {
            /// All of them, in the order of their numbers.
            pub const ALL: [Op; [$($name),*].len()] = [$(Op::$variant),*];

            /// The value of the label `op`.
            pub const fn name(self) -> &'static str {
                match self { $(Op::$variant => $name),* }
            }
        }
    };
}

ops! {
    Lookup "lookup"
    Forget "forget"
    Getattr "getattr"
    Setattr "setattr"
    Readlink "readlink"
    Mknod "mknod"
    Mkdir "mkdir"
    Unlink "unlink"
    Rmdir "rmdir"
    Symlink "symlink"
    Rename "rename"
    Link "link"
    Open "open"
    Read "read"
    Write "write"
    Flush "flush"
    Release "release"
    Fsync "fsync"
    Opendir "opendir"
    Readdir "readdir"
    Readdirplus "readdirplus"
    Releasedir "releasedir"
    Fsyncdir "fsyncdir"
    Statfs "statfs"
    Setxattr "setxattr"
    Getxattr "getxattr"
    Listxattr "listxattr"
    Removexattr "removexattr"
    Create "create"
    Fallocate "fallocate"
    Lseek "lseek"
    CopyFileRange "copy_file_range"
}

/// How many there are.
pub(super) const OPS: usize = Op::ALL.len();

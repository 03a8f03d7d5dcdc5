//! Paths as tables write them.
//!
//! Owns: what a path may look like. May not: look at a file system.

/// A path that a table may have: absolute, no `..`, slashes and `.` tidied.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct CleanPath {
    /// Without a trailing slash; `/` itself is `/`.
    pub(crate) bytes: Vec<u8>,
    /// It was written with a trailing slash.
    pub(crate) dir: bool,
}

/// Why a path is refused: where in it, what, and what to do.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct PathFault {
    /// The byte at which it goes wrong.
    pub(crate) offset: usize,
    /// What is wrong, following "the path …".
    pub(crate) what: &'static str,
    /// What to do about it.
    pub(crate) help: &'static str,
}

/// Tidies a path, or says why it is none.
pub(crate) fn clean(path: &[u8]) -> Result<CleanPath, PathFault> {
    let fault = |offset, what, help| Err(PathFault { offset, what, help });
    match path.first() {
        None => return fault(0, "is empty", "write the absolute path"),
        Some(b'/') => {}
        Some(_) => return fault(0, "is not absolute", "begin it with /"),
    }
    if let Some(nul) = path.iter().position(|b| *b == 0) {
        return fault(nul, "has a NUL byte", "no file name can have one");
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut offset = 0;
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return fault(offset, "has \"..\" in it", "write the path that is meant"),
            _ => {
                bytes.push(b'/');
                bytes.extend_from_slice(part);
            }
        }
        offset += part.len() + 1;
    }
    if bytes.is_empty() {
        bytes.push(b'/');
    }
    let dir = path.ends_with(b"/") || path.ends_with(b"/.");
    Ok(CleanPath { bytes, dir })
}

/// True where `path` is `top` or lies below it.
pub(crate) fn is_at_or_below(path: &[u8], top: &[u8]) -> bool {
    top == b"/"
        || path
            .strip_prefix(top)
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_are_tidied() {
        for (path, expected, dir) in [
            ("/", "/", true),
            ("//", "/", true),
            ("/etc/ntp.conf", "/etc/ntp.conf", false),
            ("//etc///lvm//", "/etc/lvm", true),
            ("/./etc/./x/.", "/etc/x", true),
            ("/...", "/...", false),
        ] {
            let found = clean(path.as_bytes()).unwrap();
            assert_eq!(
                (found.bytes.as_slice(), found.dir),
                (expected.as_bytes(), dir),
                "{path}"
            );
        }
    }

    #[test]
    fn and_refused_at_the_right_byte() {
        for (path, offset, what) in [
            ("", 0, "is empty"),
            ("etc", 0, "is not absolute"),
            ("/a\0", 2, "has a NUL byte"),
            ("/a/../b", 3, "has \"..\" in it"),
            ("/..", 1, "has \"..\" in it"),
        ] {
            let fault = clean(path.as_bytes()).unwrap_err();
            assert_eq!((fault.offset, fault.what), (offset, what), "{path:?}");
        }
    }

    #[test]
    fn below() {
        assert!(is_at_or_below(b"/a/b", b"/a"));
        assert!(is_at_or_below(b"/a", b"/a"));
        assert!(is_at_or_below(b"/a", b"/"));
        assert!(!is_at_or_below(b"/ab", b"/a"));
        assert!(!is_at_or_below(b"/", b"/a"));
    }

    proptest! {
        #[test]
        fn a_clean_path_is_clean(path in proptest::collection::vec(prop_oneof![Just(b'/'), Just(b'.'), any::<u8>()], 0..20)) {
            if let Ok(found) = clean(&path) {
                prop_assert_eq!(&clean(&found.bytes).unwrap().bytes, &found.bytes);
                prop_assert!(found.bytes.starts_with(b"/"));
            }
        }
    }
}

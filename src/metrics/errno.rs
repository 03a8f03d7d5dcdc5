//! Errors by their symbolic names, for the label `errno`.

/// One more than the highest errno of Linux; what is beyond is counted at 0.
pub(super) const ERRNOS: usize = 134;

macro_rules! names {
    ($($name:ident)*) => {
        fn name(errno: i32) -> Option<&'static str> {
            match errno {
                $(libc::$name => Some(stringify!($name)),)*
                _ => None,
            }
        }
    };
}

// What file systems and the descriptors under them answer.
names! {
    EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG EBADF EAGAIN ENOMEM EACCES EFAULT ENOTBLK EBUSY EEXIST
    EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS
    EMLINK EPIPE EDOM ERANGE EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY ELOOP ENODATA ETIME
    ENOLINK ECOMM EPROTO EBADMSG EOVERFLOW EREMOTE EOPNOTSUPP ETIMEDOUT ECONNREFUSED
    ECONNRESET EHOSTDOWN EHOSTUNREACH ENETDOWN ENETUNREACH ENOTCONN ENOBUFS ESHUTDOWN EALREADY
    EINPROGRESS ESTALE EUCLEAN EREMOTEIO EDQUOT ENOMEDIUM EMEDIUMTYPE ECANCELED ENOKEY EKEYEXPIRED
    EKEYREJECTED EOWNERDEAD ENOTRECOVERABLE
}

/// The name of what is counted at `slot`: `ENOENT`, its number where it is a rare one, or `other`.
pub(super) fn label(slot: usize) -> std::borrow::Cow<'static, str> {
    match name(slot as i32) {
        Some(name) => name.into(),
        None if slot == 0 => "other".into(),
        None => slot.to_string().into(),
    }
}

/// Where an errno is counted.
pub(super) fn slot(errno: i32) -> usize {
    usize::try_from(errno).map_or(0, |n| if n < ERRNOS { n } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_names_and_the_unknown_are_counted_too() {
        assert_eq!(label(slot(libc::ENOENT)), "ENOENT");
        assert_eq!(label(slot(libc::EDQUOT)), "EDQUOT");
        assert_eq!(label(slot(63)), "63");
        assert_eq!(label(slot(99_999)), "other");
        assert_eq!(label(slot(-5)), "other");
    }
}

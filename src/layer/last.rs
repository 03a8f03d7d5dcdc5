//! The regular file of a lower layer that was looked at last, kept within reach for a moment: a look-up
//! is mostly followed by an open of the same file, which then need not walk the path once more.
//!
//! It counts only for the file (device and inode) that was just found at a path, and as long as the
//! layer's root is there (SEMANTICS section 8).

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Layer;
use crate::sys::Res;
use crate::sys::obj::{self, Stat};

/// What is older has most likely no open to come, and whoever unmounts the layer's file system is
/// not to be kept from it.
const LONGEST: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Kept {
    /// `O_PATH`.
    fd: OwnedFd,
    file: (u64, u64),
    since: Instant,
}

/// One layer's.
#[derive(Debug, Default)]
pub(super) struct Last(Mutex<Option<Kept>>);

impl Layer {
    /// Keeps the object that was just looked at.
    pub fn keep_last(&self, fd: OwnedFd, stat: &Stat) {
        let kept = Kept {
            fd,
            file: (stat.dev, stat.ino),
            since: Instant::now(),
        };
        let before = self.last.0.lock().replace(kept);
        // Closing is a system call.
        drop(before);
    }

    /// The object with this device and inode, if it was looked at last and just now, and has a name
    /// still; and what it is at present.
    ///
    /// # Errors
    /// As [`Layer::root`]; what looking at it answers.
    pub fn take_last(&self, file: (u64, u64)) -> Res<Option<(OwnedFd, Stat)>> {
        self.root()?;
        let kept = self.last.0.lock().take();
        let Some(kept) = kept.filter(|kept| kept.file == file && kept.since.elapsed() < LONGEST)
        else {
            return Ok(None);
        };
        let stat = obj::stat(&kept.fd)?;
        Ok((stat.nlink > 0).then_some((kept.fd, stat)))
    }

    /// Lets go of it where it is too old to be of use.
    pub(super) fn let_go_of_last(&self) {
        let mut last = self.last.0.lock();
        let old = last.take_if(|kept| kept.since.elapsed() >= LONGEST);
        drop(last);
        drop(old);
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::OFlags;

    use super::*;
    use crate::layer::tests::spec;

    #[test]
    fn it_is_handed_out_once_and_only_while_it_has_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let layer = Layer::new(spec(dir.path(), None));
        let look = |name: &str| {
            std::fs::write(dir.path().join(name), "x").unwrap();
            let fd = layer.open(name.as_bytes(), OFlags::PATH).unwrap();
            let stat = obj::stat(&fd).unwrap();
            layer.keep_last(fd, &stat);
            (stat.dev, stat.ino)
        };
        // The clock of a busy machine may have gone on for too long: then there is nothing to take.
        let mut took = false;
        for _ in 0..100 {
            let file = look("a");
            if layer.take_last(file).unwrap().is_some() {
                took = true;
                assert!(layer.take_last(file).unwrap().is_none());
                break;
            }
        }
        assert!(took);
        let (a, b) = (look("a"), look("b"));
        assert!(layer.take_last(a).unwrap().is_none());
        assert!(layer.take_last(b).unwrap().is_none(), "asked for another");
        let b = look("b");
        std::fs::remove_file(dir.path().join("b")).unwrap();
        assert!(layer.take_last(b).unwrap().is_none());
    }

    #[test]
    fn it_is_not_held_for_long() {
        let dir = tempfile::tempdir().unwrap();
        let layer = Layer::new(spec(dir.path(), None));
        std::fs::write(dir.path().join("f"), "x").unwrap();
        let fd = layer.open(b"f", OFlags::PATH).unwrap();
        let stat = obj::stat(&fd).unwrap();
        layer.keep_last(fd, &stat);
        let mut last = layer.last.0.lock();
        let kept = last.as_mut().unwrap();
        kept.since = kept.since.checked_sub(LONGEST).unwrap();
        drop(last);
        layer.let_go_of_last();
        assert!(layer.last.0.lock().is_none());
    }
}

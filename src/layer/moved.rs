//! Which numbers copies have taken along to other paths. A copy keeps the number of the path that it
//! was made at, also under another name; who comes to that path later in a lower layer is another
//! object, and must not get the same number.
//!
//! Owns: the record of an upper, a file in its work directory with eight bytes a number, and what is
//! known of it. A number is recorded before its copy has the other name (below a directory that the node
//! made, which moves with all that it has: right after the copy is made), and stays until the upper is
//! emptied: one too many costs a newcomer its first number, one too few would give away another's.
//! May not: know what a number means; have who looks something up wait while another's number is written.
//!
//! Lock order: `writing`, then `known`. The former is held across I/O.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};
use rustix::fs::{Mode, OFlags};

use super::Layer;
use crate::sys::obj;
use crate::sys::{Errno, Res, copy};

/// The record's name in the work directory.
const RECORD: &[u8] = b"moved";
const EACH: usize = size_of::<u64>();

/// What is known of the record.
#[derive(Debug, Default)]
pub(super) struct Moved {
    /// Held by who reads or writes the record.
    writing: Mutex<()>,
    /// `None` until it was read.
    known: RwLock<Option<HashSet<u64>>>,
    /// It was read and is empty, as most are: nobody needs to wait for who adds to it.
    is_empty: AtomicBool,
}

impl Layer {
    /// Has a copy taken this number to another path? Of a record that can't be read it is not known.
    pub fn has_moved(&self, number: u64) -> bool {
        if self.moved.is_empty.load(Ordering::Acquire) {
            return false;
        }
        if let Err(error) = self.read_moved() {
            tracing::warn!(
                layer = self.spec.label, %error,
                "can't tell which numbers of renamed copies are taken"
            );
        }
        let known = self.moved.known.read();
        known.as_ref().is_some_and(|known| known.contains(&number))
    }

    /// Records numbers whose copies are about to get another name.
    ///
    /// # Errors
    /// What reading or writing the record answers.
    pub fn note_moved(&self, numbers: &[u64]) -> Res<()> {
        let work = self.work()?;
        self.read_moved()?;
        let _writing = self.moved.writing.lock();
        let news: Vec<u64> = {
            let known = self.moved.known.read();
            let is_known = |n: &u64| known.as_ref().is_some_and(|known| known.contains(n));
            numbers.iter().filter(|n| !is_known(n)).copied().collect()
        };
        if news.is_empty() {
            return Ok(());
        }
        let flags = OFlags::WRONLY | OFlags::CREATE;
        let mode = Mode::from_raw_mode(0o600);
        let record = obj::open_beneath(work.as_fd(), RECORD, flags, mode)?;
        // What a crash or a full store left of a number is written over.
        let end = obj::stat(&record)?.size as usize / EACH * EACH;
        let bytes: Vec<u8> = news.iter().flat_map(|n| n.to_le_bytes()).collect();
        copy::write_all(&record, &bytes, end as u64)?;
        if self.spec.upper.as_ref().is_some_and(|upper| upper.durable) {
            rustix::fs::fsync(&record)?;
        }
        self.moved
            .known
            .write()
            .get_or_insert_default()
            .extend(news);
        self.moved.is_empty.store(false, Ordering::Release);
        Ok(())
    }

    /// Makes known what is in the record, once.
    fn read_moved(&self) -> Res<()> {
        if self.moved.known.read().is_some() {
            return Ok(());
        }
        let _writing = self.moved.writing.lock();
        if self.moved.known.read().is_none() {
            let numbers = self.read_record()?;
            self.moved
                .is_empty
                .store(numbers.is_empty(), Ordering::Release);
            *self.moved.known.write() = Some(numbers);
        }
        Ok(())
    }

    fn read_record(&self) -> Res<HashSet<u64>> {
        let only_looked_at = self.spec.upper.as_ref().is_none_or(|upper| upper.read_only);
        let work = match self.work_dir_that_is_there() {
            Ok(work) => work,
            // Nobody has used the upper yet.
            Err(Errno::NOENT) if only_looked_at => return Ok(HashSet::new()),
            Err(e) => return Err(e),
        };
        let record = match obj::open_beneath(work.as_fd(), RECORD, OFlags::RDONLY, Mode::empty()) {
            Ok(record) => record,
            Err(Errno::NOENT) => return Ok(HashSet::new()),
            Err(e) => return Err(e),
        };
        let mut bytes = vec![0; obj::stat(&record)?.size as usize];
        let mut read = 0;
        while read < bytes.len() {
            match rustix::io::pread(&record, &mut bytes[read..], read as u64)? {
                0 => break,
                n => read += n,
            }
        }
        let whole = bytes[..read].chunks_exact(EACH);
        Ok(whole
            .filter_map(|n| n.try_into().ok())
            .map(u64::from_le_bytes)
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::UpperSpec;
    use crate::layer::tests::spec;

    #[test]
    fn what_was_recorded_is_known_to_the_next() {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir(top.path().join("upper")).unwrap();
        let layer = || {
            let upper = UpperSpec {
                work: Some(top.path().into()),
                durable: true,
                ..UpperSpec::default()
            };
            Layer::new(spec(top.path().join("upper"), Some(upper)))
        };
        let first = layer();
        // A store that is not there is not made by who looks, and what is not known is read later.
        assert!(!first.has_moved(1));
        assert!(!top.path().join("work").exists());
        first.note_moved(&[1, 2]).unwrap();
        first.note_moved(&[2, 1]).unwrap();
        assert!(first.has_moved(1) && first.has_moved(2) && !first.has_moved(3));
        let record = top.path().join("work/moved");
        assert_eq!(std::fs::metadata(&record).unwrap().len(), 16);
        // Half a number, as a full store may leave.
        let half = [std::fs::read(&record).unwrap(), vec![3, 0, 0]].concat();
        std::fs::write(&record, half).unwrap();
        drop(first);
        let second = layer();
        assert!(second.has_moved(2) && !second.has_moved(3));
        second.note_moved(&[4]).unwrap();
        drop(second);
        let third = layer();
        assert!(third.has_moved(1) && third.has_moved(4) && !third.has_moved(3));
        assert_eq!(std::fs::metadata(&record).unwrap().len(), 24);
    }
}

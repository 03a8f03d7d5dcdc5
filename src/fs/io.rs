//! READ, WRITE and everything else that works on an open file's contents.

use rustix::fs::{FallocateFlags, SeekFrom};

use super::{OpenHow, View};
use crate::sys::{Errno, Res, copy, obj};

impl View {
    /// Reads at an offset; short only at the end.
    ///
    /// # Errors
    /// What reading answers.
    pub fn read(&self, number: u64, handle: u64, offset: u64, buf: &mut [u8]) -> Res<usize> {
        let file = self.file(number, handle, false)?;
        let mut done = 0;
        while done < buf.len() {
            match rustix::io::pread(&*file, &mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Writes at an offset. `kill_suid`: the caller has no right to keep setuid bits.
    ///
    /// # Errors
    /// `ENOSPC`, `EDQUOT`, `EFBIG` and whatever else writing answers; a short count where
    /// something was written before that.
    pub fn write(
        &self,
        number: u64,
        handle: u64,
        offset: u64,
        data: &[u8],
        kill_suid: bool,
    ) -> Res<usize> {
        let file = self.file(number, handle, true)?;
        if kill_suid {
            obj::kill_suid(&*file)?;
        }
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            match self.with_room(|| rustix::io::pwrite(&*file, &data[done..], at)) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// fsync or fdatasync of an open file.
    ///
    /// # Errors
    /// fsync(2)'s.
    pub fn fsync(&self, number: u64, handle: u64, datasync: bool) -> Res<()> {
        let file = self.file(number, handle, false)?;
        if datasync {
            rustix::fs::fdatasync(&*file)
        } else {
            rustix::fs::fsync(&*file)
        }
    }

    /// Has close(2) nothing to report of a file that is opened so? Then the kernel need not ask.
    pub fn closes_quietly(&self, number: u64, how: OpenHow) -> bool {
        if !how.writes() {
            return true;
        }
        let upper = self
            .inode(number)
            .and_then(|inode| self.writable(self.pos_of(&inode)));
        upper.is_ok_and(|upper| self.is_local(upper))
    }

    /// At close(2): what a store reports late (NFS: quota, space) is reported here.
    ///
    /// # Errors
    /// close(2)'s, of a duplicate of the descriptor.
    pub fn flush(&self, handle: u64) -> Res<()> {
        let Some(open) = self.held.files.get(handle).filter(|open| open.writes()) else {
            return Ok(());
        };
        let Some(file) = open.current() else {
            return Ok(());
        };
        let copy = rustix::io::dup(&*file)?;
        crate::sys::close::close(copy)
    }

    /// fallocate(2), holes included.
    ///
    /// # Errors
    /// fallocate(2)'s.
    pub fn fallocate(
        &self,
        number: u64,
        handle: u64,
        offset: u64,
        len: u64,
        mode: u32,
        kill_suid: bool,
    ) -> Res<()> {
        let file = self.file(number, handle, true)?;
        if kill_suid {
            obj::kill_suid(&*file)?;
        }
        let mode = FallocateFlags::from_bits_retain(mode);
        self.with_room(|| rustix::fs::fallocate(&*file, mode, offset, len))
    }

    /// lseek(2) to data or a hole; the kernel does the other kinds itself.
    ///
    /// # Errors
    /// `ENXIO` behind the end, `EINVAL` for another kind.
    pub fn lseek(&self, number: u64, handle: u64, offset: i64, whence: i32) -> Res<u64> {
        let at = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
        let to = match whence {
            libc::SEEK_DATA => SeekFrom::Data(at),
            libc::SEEK_HOLE => SeekFrom::Hole(at),
            _ => return Err(Errno::INVAL),
        };
        rustix::fs::seek(&*self.file(number, handle, false)?, to)
    }

    /// copy_file_range(2) between two open files of the view.
    ///
    /// # Errors
    /// What reading or writing answers; a short count where something was copied before that.
    pub fn copy_file_range(
        &self,
        (from, from_handle, from_at): (u64, u64, u64),
        (to, to_handle, to_at): (u64, u64, u64),
        len: u64,
        kill_suid: bool,
    ) -> Res<u64> {
        let source = self.file(from, from_handle, false)?;
        let target = self.file(to, to_handle, true)?;
        if kill_suid {
            obj::kill_suid(&*target)?;
        }
        self.with_room(|| copy::range(&*source, from_at, &*target, to_at, len))
    }
}

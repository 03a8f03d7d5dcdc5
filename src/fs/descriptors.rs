//! The descriptors of open files: each file that is open in a view may cost the process one, and
//! all views share its limit. Where they come near it, those of files that are not in use right now
//! are let go of, and had again when the file is used.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::Held;
use crate::budget::OPEN;

/// The open files of all views of the process, which has one table of descriptors.
#[derive(Debug, Default)]
struct Everywhere {
    views: Vec<Weak<Held>>,
    /// They are gone through again when more descriptors than this are kept: not for each open
    /// where little could be let go of.
    next: usize,
}

static EVERYWHERE: Mutex<Everywhere> = Mutex::new(Everywhere {
    views: Vec::new(),
    next: 0,
});

impl Everywhere {
    /// Lets go of what is not in use right now, where there are more descriptors than `most`.
    fn bound(&mut self, most: usize) {
        if OPEN.kept() <= most.max(self.next) {
            return;
        }
        self.views.retain(|view| view.strong_count() > 0);
        for view in self.views.iter().filter_map(Weak::upgrade) {
            for file in view.files.all() {
                file.let_go();
            }
        }
        self.next = OPEN.kept() + most / 8;
    }
}

/// A view's open files count from now on.
pub(super) fn count_open(held: &Arc<Held>) {
    let views = &mut EVERYWHERE.lock().views;
    if views.len() == views.capacity() {
        views.retain(|view| view.strong_count() > 0);
    }
    views.push(Arc::downgrade(held));
}

/// To be called after each open: lets go of what is not in use, where there is too much.
pub(super) fn bound() {
    if OPEN.excess() > 0
        // Else somebody is at it.
        && let Some(mut everywhere) = EVERYWHERE.try_lock()
    {
        everywhere.bound(OPEN.most());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::tests::{ME, ROOT, plain};
    use crate::fs::{OpenHow, View};

    #[test]
    fn descriptors_are_bounded_for_all_views_together() {
        let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let fill = |lower: &std::path::Path| std::fs::write(lower.join("f"), "lower").unwrap();
        let views = dirs.each_ref().map(|dir| plain(dir.path(), fill));
        let open = views.each_ref().map(|view| {
            let file = view.lookup(ROOT, b"f").unwrap().attr.number;
            let how = OpenHow::from_raw(libc::O_RDWR);
            (file, view.open(file, how, ME).unwrap())
        });
        let mut everywhere = Everywhere {
            views: views
                .each_ref()
                .map(|view| Arc::downgrade(&view.held))
                .into(),
            next: 0,
        };
        everywhere.bound(usize::MAX);
        let kept = |view: &View| view.held.files.all()[0].current().is_some();
        assert!(views.iter().all(kept));
        everywhere.bound(1);
        assert!(!views.iter().any(kept));
        for (view, (file, handle)) in views.iter().zip(open) {
            view.write(file, handle, 0, b"again", false).unwrap();
            assert!(kept(view));
        }
    }
}

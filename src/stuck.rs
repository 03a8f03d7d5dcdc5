//! What tests want to see this program fail of, in builds with debug assertions alone: nobody else's
//! has any of it.
//!
//! `STATELITE_TEST_STUCK` names a file of one line, `deadlock WHERE`, `spin WHERE` or `abort WHERE`. Who comes to that
//! place first removes the file and does so; `always-abort WHERE` leaves it.

/// The program has come to a place.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn here(_place: &[u8]) {}

/// The program has come to a place.
#[cfg(debug_assertions)]
pub(crate) fn here(place: &[u8]) {
    use std::path::PathBuf;
    use std::sync::LazyLock;

    static FILE: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os("STATELITE_TEST_STUCK").map(PathBuf::from));
    let Some(file) = &*FILE else { return };
    let Ok(line) = std::fs::read(file) else {
        return;
    };
    let mut words = line.trim_ascii().splitn(2, |byte| *byte == b' ');
    let (what, at) = (words.next(), words.next());
    if what == Some(b"always-abort") && at == Some(place) {
        std::process::abort();
    }
    // Whoever removes it is the one.
    if at != Some(place) || std::fs::remove_file(file).is_err() {
        return;
    }
    match what {
        Some(b"deadlock") => {
            let lock = parking_lot::Mutex::new(());
            let _held = lock.lock();
            drop(lock.lock());
        }
        Some(b"spin") => loop {
            std::hint::spin_loop();
        },
        Some(b"abort") => std::process::abort(),
        _ => {}
    }
}

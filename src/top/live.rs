//! The live view: a terminal in raw mode, given back as it was on every way out.
//!
//! crossterm's `use-dev-tty` (poll(2), not epoll's edges) is needed: its other way loses a key that
//! comes together with a resize, and never returns once the terminal is gone.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::DefaultTerminal;

use super::feed::{Feed, News};
use super::rates::Sort;
use super::screen::Screen;

/// How long a signal may have to wait.
const PACE: Duration = Duration::from_millis(50);

/// Why the view ended other than by a key or a signal.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// The terminal refuses.
    #[error("the terminal: {0}")]
    Terminal(#[from] io::Error),
    /// No more reports come.
    #[error("{0}")]
    Feed(String),
}

/// Gives the terminal back when dropped; a panic does so before its message, by ratatui's hook.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        // Not ratatui::restore: it tells of a failure on standard error, which is the same terminal,
        // and a message that can't be written there is a panic.
        if let Err(error) = ratatui::try_restore() {
            tracing::debug!(%error, "the terminal is gone");
        }
    }
}

/// Shows reports until `q`, Ctrl-C, SIGTERM, SIGINT or SIGHUP.
///
/// # Errors
/// [`LiveError`]; the terminal is given back before.
pub fn live(feed: &Feed, sort: Sort) -> Result<(), LiveError> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    let _restored = Restored;
    let mut terminal = ratatui::try_init()?;
    let ended = show(&mut terminal, feed, sort, &stop);
    if terminal.show_cursor().is_err() {
        // Dropped, it would try once more, and then as above.
        std::mem::forget(terminal);
    }
    match ended {
        // The terminal is gone, and who looked at it.
        Err(LiveError::Terminal(e)) if e.raw_os_error() == Some(libc::EIO) => Ok(()),
        ended => ended,
    }
}

fn show(
    terminal: &mut DefaultTerminal,
    feed: &Feed,
    sort: Sort,
    stop: &AtomicBool,
) -> Result<(), LiveError> {
    let mut screen = Screen {
        sort,
        ..Screen::default()
    };
    let mut changed = true;
    while !stop.load(Ordering::Relaxed) {
        if changed {
            terminal.draw(|frame| screen.draw(frame))?;
        }
        changed = true;
        match feed.next(Duration::ZERO).map_err(LiveError::Feed)? {
            Some(News::Report(report)) => screen.take(*report),
            Some(News::Failed(why)) => screen.trouble = Some(why),
            None => changed = false,
        }
        if !event::poll(PACE)? {
            continue;
        }
        changed = true;
        if let Event::Key(key) = event::read()?
            && key.kind != KeyEventKind::Release
            && !pressed(&mut screen, key)
        {
            return Ok(());
        }
    }
    Ok(())
}

/// Does what a key says; false for those that end the view.
fn pressed(screen: &mut Screen, key: KeyEvent) -> bool {
    const PAGE: isize = 20;
    match key.code {
        KeyCode::Char('q') => return false,
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
        KeyCode::Char('s') => screen.sort_next(),
        KeyCode::Down => screen.step(1),
        KeyCode::Up => screen.step(-1),
        KeyCode::PageDown => screen.step(PAGE),
        KeyCode::PageUp => screen.step(-PAGE),
        KeyCode::Home => screen.step(isize::MIN),
        KeyCode::End => screen.step(isize::MAX),
        KeyCode::Esc => screen.place.select(None),
        _ => {}
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        let mut screen = Screen::default();
        assert!(!pressed(&mut screen, KeyCode::Char('q').into()));
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert!(!pressed(&mut screen, interrupt));
        assert!(pressed(&mut screen, KeyCode::Char('c').into()));
        for expected in [Sort::Latency, Sort::Tmpfs, Sort::Errors, Sort::Requests] {
            assert!(pressed(&mut screen, KeyCode::Char('s').into()));
            assert_eq!(screen.sort, expected);
        }
        assert!(pressed(&mut screen, KeyCode::Down.into()));
    }
}

use std::io::Write;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;

use super::*;

/// No window of this length ends in a test.
const LONG: Duration = Duration::from_secs(3600);

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Lines;
    fn make_writer(&self) -> Lines {
        self.clone()
    }
}

impl Lines {
    fn all(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn with(&self, word: &str) -> usize {
        self.all().iter().filter(|line| line.contains(word)).count()
    }
}

/// What `work` logs through the limiter.
fn logged(limiter: &Limiter, filter: &str, work: impl FnOnce(&Lines)) -> Lines {
    let lines = Lines::default();
    let layer = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .without_time()
        .with_writer(lines.clone());
    let subscriber = tracing_subscriber::registry()
        .with(layer)
        .with(limiter.with(EnvFilter::new(filter)));
    tracing::subscriber::with_default(subscriber, || work(&lines));
    lines
}

fn fails(view: &str, n: u32) {
    tracing::error!(view, n, "request failed");
}

#[test]
fn beyond_the_burst_messages_are_counted_and_told() {
    let limiter = Limiter::new(10, LONG);
    let lines = logged(&limiter, "info", |lines| {
        (0..25).for_each(|n| fails("n1", n));
        assert_eq!(lines.with("request failed"), 10);
        limiter.flush();
        limiter.flush();
    });
    let all = lines.all();
    assert_eq!(all.len(), 11, "{all:?}");
    let last = &all[10];
    for part in [
        "ERROR",
        "repeated messages were left out",
        "view=\"n1\"",
        "left_out=15",
        "like=\"request failed\"",
    ] {
        assert!(last.contains(part), "{part} is not in {last}");
    }
}

#[test]
fn views_and_places_do_not_drown_one_another() {
    let limiter = Limiter::new(3, LONG);
    let lines = logged(&limiter, "info", |_| {
        (0..50).for_each(|n| fails("n1", n));
        fails("n2", 0);
        tracing::error!(view = "n1", "something else");
        tracing::warn!("of no view");
    });
    assert_eq!(lines.with("view=\"n1\""), 4);
    assert_eq!(lines.with("view=\"n2\""), 1);
    assert_eq!(lines.with("of no view"), 1);
}

#[test]
fn a_filter_that_wants_one_place_hears_what_was_left_out_of_it() {
    let limiter = Limiter::new(1, LONG);
    let lines = logged(&limiter, "statelite::logs::tests=warn", |_| {
        (0..3).for_each(|n| fails("n1", n));
        tracing::info!("not wanted");
        limiter.flush();
    });
    assert_eq!(lines.all().len(), 2);
    assert_eq!(lines.with("left_out=2"), 1);
}

#[test]
fn what_is_asked_for_in_detail_is_not_held_back() {
    let limiter = Limiter::new(1, LONG);
    let lines = logged(&limiter, "debug", |_| {
        (0..100).for_each(|n| tracing::debug!(view = "n1", n, "request refused"));
        limiter.flush();
    });
    assert_eq!(lines.all().len(), 100);
}

#[test]
fn a_new_window_lets_messages_pass_again() {
    let limiter = Limiter::new(2, Duration::from_millis(1));
    let lines = logged(&limiter, "info", |lines| {
        let mut n = 0;
        while lines.with("n=") < 7 {
            fails("n1", n);
            n += 1;
        }
    });
    assert!(lines.with("request failed") >= 7);
}

/// The thread's default subscriber is not the test's: what it takes, and when it ends, is looked at.
#[test]
fn what_was_left_out_is_told_when_the_window_ends_though_nothing_follows() {
    let limiter = Limiter::new(1, Duration::from_millis(20));
    logged(&limiter, "info", |_| (0..5).for_each(|n| fails("n1", n)));
    let begun = Instant::now();
    while limiter.0.kinds.lock().telling {
        assert!(begun.elapsed() < Duration::from_secs(60), "not told");
        std::thread::yield_now();
    }
    let kinds = limiter.0.kinds.lock();
    assert!(
        kinds
            .windows
            .values()
            .all(|window| window.left_out.is_none())
    );
}

#[test]
fn kinds_are_bounded() {
    let limiter = Limiter::new(1, LONG);
    logged(&limiter, "info", |_| {
        for n in 0..2 * MOST_KINDS as u32 {
            fails(&n.to_string(), n);
        }
    });
    // Beyond the bound, one kind of no view for each place.
    assert_eq!(limiter.0.kinds.lock().windows.len(), MOST_KINDS + 1);
    limiter.0.kinds.lock().forget(Instant::now() + LONG, LONG);
    assert_eq!(
        limiter.0.kinds.lock().windows.len(),
        1,
        "what is left out stays"
    );
}

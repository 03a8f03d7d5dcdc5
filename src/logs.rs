//! Repeated log messages are held back, so that a store that fails does not fill a disk with one
//! sentence.
//!
//! Owns: what is only counted. May not: leave anything out without saying so.
//!
//! Of one place in the program and one view, [`BURST`] messages pass in [`WINDOW`]; further ones are
//! counted, and when the window ends a line says how many they were. `debug` and `trace` pass
//! untouched: who asks for them wants all of it.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber, callsite};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::Context;
use xxhash_rust::xxh3::xxh3_64;

/// So many of a kind pass.
const BURST: u32 = 10;
/// In so much time.
const WINDOW: Duration = Duration::from_secs(10);
/// Kinds that are told apart, enough for 1,000 views; beyond them, views no longer are.
const MOST_KINDS: usize = 8192;
/// The target of the lines that say what was left out: they pass every filter.
const TARGET: &str = "statelite::logs";

/// Holds back repeated messages. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Limiter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    burst: u32,
    window: Duration,
    kinds: Mutex<Kinds>,
}

#[derive(Debug, Default)]
struct Kinds {
    windows: HashMap<Kind, Window>,
    /// A thread waits for windows to end; there is one while something is left out.
    telling: bool,
}

/// What is the same message: where it comes from, and the hash of its field `view`.
type Kind = (callsite::Identifier, Option<u64>);

#[derive(Debug)]
struct Window {
    began: Instant,
    passed: u32,
    left_out: Option<LeftOut>,
}

#[derive(Debug)]
struct LeftOut {
    count: u64,
    metadata: &'static Metadata<'static>,
    said: Said,
}

/// What a message says.
#[derive(Debug, Default)]
struct Said {
    message: String,
    view: Option<String>,
}

impl Default for Limiter {
    fn default() -> Limiter {
        Limiter::new(BURST, WINDOW)
    }
}

impl Limiter {
    /// Lets `burst` messages of a kind pass in each `window`.
    pub fn new(burst: u32, window: Duration) -> Limiter {
        Limiter(Arc::new(Inner {
            burst,
            window,
            kinds: Mutex::default(),
        }))
    }

    /// A filter of what `wanted` lets through.
    pub fn with<F>(&self, wanted: F) -> Limited<F> {
        Limited {
            wanted,
            limiter: self.clone(),
        }
    }

    /// Tells what was left out so far, as before the process ends.
    pub fn flush(&self) {
        let all: Vec<LeftOut> = {
            let mut kinds = self.0.kinds.lock();
            let windows = kinds.windows.values_mut();
            windows.filter_map(|w| w.left_out.take()).collect()
        };
        all.iter().for_each(LeftOut::tell);
    }

    fn passes(&self, event: &Event<'_>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::INFO || metadata.target() == TARGET {
            return true;
        }
        let mut said = Said::default();
        event.record(&mut said);
        let view = said.view.as_ref().map(|view| xxh3_64(view.as_bytes()));
        let mut kind = (metadata.callsite(), view);
        let now = Instant::now();
        let mut kinds = self.0.kinds.lock();
        if kinds.windows.len() >= MOST_KINDS && !kinds.windows.contains_key(&kind) {
            kinds.forget(now, self.0.window);
            if kinds.windows.len() >= MOST_KINDS {
                kind.1 = None;
            }
        }
        let Kinds { windows, telling } = &mut *kinds;
        let window = windows.entry(kind).or_insert(Window {
            began: now,
            passed: 0,
            left_out: None,
        });
        if window.left_out.is_none() && now.duration_since(window.began) >= self.0.window {
            window.began = now;
            window.passed = 0;
        }
        if window.passed < self.0.burst {
            window.passed += 1;
            return true;
        }
        // Without a thread that tells of it, nothing is left out.
        if !*telling && self.start_telling().is_err() {
            return true;
        }
        *telling = true;
        let left_out = window.left_out.get_or_insert(LeftOut {
            count: 0,
            metadata,
            said,
        });
        left_out.count += 1;
        false
    }

    fn start_telling(&self) -> std::io::Result<()> {
        let inner = self.0.clone();
        std::thread::Builder::new()
            .name("statelite-log".into())
            .spawn(move || inner.tell())
            .map(drop)
    }
}

impl Inner {
    /// Tells of each window that ends, until nothing is left out any more.
    fn tell(&self) {
        loop {
            let now = Instant::now();
            let mut ended = Vec::new();
            let next = {
                let mut kinds = self.kinds.lock();
                let mut next: Option<Duration> = None;
                for window in kinds.windows.values_mut() {
                    let left = self.window.saturating_sub(now.duration_since(window.began));
                    if left.is_zero() {
                        ended.extend(window.left_out.take());
                    } else if window.left_out.is_some() {
                        next = Some(next.map_or(left, |next| next.min(left)));
                    }
                }
                kinds.forget(now, self.window);
                kinds.telling = next.is_some();
                next
            };
            ended.iter().for_each(LeftOut::tell);
            match next {
                Some(next) => std::thread::sleep(next),
                None => return,
            }
        }
    }
}

impl Kinds {
    /// Windows that are over, and of which there is nothing to tell.
    fn forget(&mut self, now: Instant, length: Duration) {
        self.windows
            .retain(|_, w| w.left_out.is_some() || now.duration_since(w.began) < length);
    }
}

impl LeftOut {
    fn tell(&self) {
        macro_rules! tell {
            ($level:expr) => {
                tracing::event!(
                    target: TARGET,
                    $level,
                    view = self.said.view,
                    left_out = self.count,
                    like = self.said.message,
                    from = self.metadata.target(),
                    line = self.metadata.line(),
                    "repeated messages were left out"
                )
            };
        }
        match *self.metadata.level() {
            Level::ERROR => tell!(Level::ERROR),
            Level::WARN => tell!(Level::WARN),
            _ => tell!(Level::INFO),
        }
    }
}

impl Visit for Said {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = value.to_owned(),
            "view" => self.view = Some(value.to_owned()),
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if matches!(field.name(), "message" | "view") {
            self.record_str(field, &format!("{value:?}"));
        }
    }
}

/// A filter of the whole log, behind which repeated messages are held back. (Not one of a layer:
/// with those, tracing-subscriber 0.3.23 loses its count of events that `event_enabled` refuses.)
#[derive(Debug)]
pub struct Limited<F> {
    wanted: F,
    limiter: Limiter,
}

impl<S: Subscriber, F: Layer<S>> Layer<S> for Limited<F> {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        match metadata.target() {
            TARGET => Interest::always(),
            _ => self.wanted.register_callsite(metadata),
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>, context: Context<'_, S>) -> bool {
        metadata.target() == TARGET || self.wanted.enabled(metadata, context)
    }

    fn event_enabled(&self, event: &Event<'_>, context: Context<'_, S>) -> bool {
        self.wanted.event_enabled(event, context) && self.limiter.passes(event)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        self.wanted.max_level_hint()
    }

    // What a filter by spans needs to know.

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        self.wanted.on_new_span(attributes, id, context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        self.wanted.on_record(id, values, context);
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        self.wanted.on_enter(id, context);
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        self.wanted.on_exit(id, context);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        self.wanted.on_close(id, context);
    }
}

#[cfg(test)]
mod tests;

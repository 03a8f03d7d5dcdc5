//! The text files of `/.statelite` (SEMANTICS section 7).

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::View;
use crate::rules::Text;

/// How long a rendered log is good for: it looks at every rule.
const LOG_AGE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Texts {
    litefile: Arc<str>,
    litetree: Arc<str>,
    log: Mutex<Option<(Instant, Arc<str>)>>,
}

impl Texts {
    pub(super) fn new((litefile, litetree): (Arc<str>, Arc<str>)) -> Texts {
        Texts {
            litefile,
            litetree,
            log: Mutex::new(None),
        }
    }
}

impl View {
    /// The present contents of a text file.
    pub(super) fn text(&self, text: Text) -> Arc<str> {
        match text {
            Text::Litefile => self.texts.litefile.clone(),
            Text::Litetree => self.texts.litetree.clone(),
            Text::Log => {
                if let Some((at, log)) = &*self.texts.log.lock()
                    && at.elapsed() < LOG_AGE
                {
                    return log.clone();
                }
                let log: Arc<str> = self.render_log().into();
                *self.texts.log.lock() = Some((Instant::now(), log.clone()));
                log
            }
        }
    }
}

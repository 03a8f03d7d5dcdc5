//! Why a path is what it is: every layer that is looked at, what is there, and which one wins.
//! What wins is asked of the same code that serves requests, so the two cannot differ.

use serde::{Deserialize, Serialize};

use super::resolve::{Here, Outcome, join};
use super::walk::Walk;
use super::{Source, Src, View};
use crate::layer::Found;
use crate::rules::{UpperKind, Zone, ZoneKind};
use crate::sys::Res;
use crate::tables::LiteOption;

/// One layer that was looked at.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Look {
    /// `tmpfs upper`, `litetree 1`, `image`.
    pub layer: String,
    /// The path on the server.
    pub path: String,
    /// `file`, `directory`, `opaque directory`, `whiteout`, `nothing`, or why it is not there.
    pub found: String,
    /// This layer's object is what the view shows (for a directory: is part of it).
    pub wins: bool,
}

/// What governs a path and where its content comes from.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Explanation {
    /// As asked.
    pub asked: String,
    /// Without symlinks in its directories.
    pub path: String,
    /// The option that governs: `tmpfs`, `ro`, …, or `outside every rule`.
    pub option: String,
    /// The path where the zone begins.
    pub zone: String,
    /// Index of the rule among the node's, where a litefile rule governs.
    #[serde(skip)]
    pub rule: Option<usize>,
    /// The path is a rule's own, or a rule lies below: it can't be removed or renamed.
    pub guarded: bool,
    /// Every layer of the zone, in order.
    pub layers: Vec<Look>,
    /// What the view shows: `file`, `directory`, …, `nothing`.
    pub shows: String,
    /// st_ino, where there is something.
    pub number: Option<u64>,
    /// Where the content comes from, in words.
    pub from: String,
    /// Where a write would go; `None` where it fails with EROFS.
    pub writes_to: Option<String>,
    /// The upper that is.
    #[serde(skip)]
    pub upper: Option<UpperKind>,
    /// What is probably not as meant.
    pub warning: Option<String>,
}

/// A file type in words.
pub fn kind_word(kind: u32) -> &'static str {
    match kind {
        libc::S_IFDIR => "directory",
        libc::S_IFLNK => "symlink",
        libc::S_IFREG => "file",
        libc::S_IFIFO => "FIFO",
        libc::S_IFSOCK => "socket",
        libc::S_IFBLK => "block device",
        libc::S_IFCHR => "character device",
        _ => "unknown",
    }
}

fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn shown(path: &[u8]) -> String {
    format!("/{}", lossy(path))
}

impl View {
    /// Why a path is what it is. Where a store is missing, that is what is explained, of the first
    /// name on the way that needs it.
    ///
    /// # Errors
    /// `ELOOP`, `ENAMETOOLONG`, and `EIO` where a store that the root itself needs is missing.
    pub fn explain(&self, path: &[u8]) -> Res<Explanation> {
        let (at, pos, candidates, outcome) = match self.walk(path, false)? {
            Walk::Done { dir, name, outcome } => {
                let pos = self.rules.step(dir.pos, &name);
                let candidates = self.candidates(&dir, pos);
                (join(&dir.path, &name), pos, candidates, outcome)
            }
            Walk::Root(here) => {
                let pos = self.rules.root();
                let stack = self.stack(self.rules.zone(pos.zone));
                (Vec::new(), pos, stack, Ok(Outcome::Here(here)))
            }
        };
        let zone = self.rules.zone(pos.zone);
        let winners: Vec<Src> = match &outcome {
            Ok(Outcome::Here(here)) => match &here.source {
                Source::Dir(srcs) | Source::Con(srcs) => srcs.to_vec(),
                Source::One(src) => vec![*src],
                _ => Vec::new(),
            },
            Ok(Outcome::Absent { .. }) | Err(_) => Vec::new(),
        };
        // An ro rule is there for what a litetree has.
        let unserved = outcome.is_ok()
            && self.rules.begins(pos)
            && zone.kind == ZoneKind::Lite(LiteOption::Ro)
            && !winners
                .iter()
                .any(|src| self.roles.trees.contains(&src.layer));
        let layers = candidates
            .iter()
            .map(|&candidate| {
                let winner = winners
                    .iter()
                    .find(|src| src.layer == candidate.layer)
                    .copied();
                self.look(zone, &at, winner.unwrap_or(candidate), winner.is_some())
            })
            .collect();
        let (shows, number, from) = match &outcome {
            Ok(Outcome::Here(here)) => (
                kind_word(here.kind()).into(),
                Some(here.attr.number),
                self.origin_words(here),
            ),
            Ok(Outcome::Absent { whiteout: true, .. }) => {
                ("nothing".into(), None, "deleted in the upper".into())
            }
            Ok(Outcome::Absent { .. }) => ("nothing".into(), None, "no layer has it".into()),
            Err(error) => (
                "nothing".into(),
                None,
                format!("a layer is missing: {error}"),
            ),
        };
        let writes_to = self
            .writable(pos)
            .ok()
            .map(|upper| self.server_path(upper, zone.layer_path(&at)));
        Ok(Explanation {
            asked: lossy(path),
            path: shown(&at),
            option: option_word(zone).into(),
            zone: shown(&self.rules.path(zone)),
            rule: zone.rule(),
            guarded: self.rules.guarded(pos),
            layers,
            shows,
            number,
            from,
            writes_to,
            upper: zone.writes_to(),
            warning: unserved.then(|| "no litetree has it".into()),
        })
    }

    fn look(&self, zone: &Zone, path: &[u8], src: Src, wins: bool) -> Look {
        let layer = self.layer(src);
        let at = self.layer_path(zone, path, src);
        let found = match layer.probe(&at) {
            Ok(Found::Absent) => "nothing".into(),
            Ok(Found::Whiteout) => "whiteout".into(),
            Ok(Found::Object(object)) => {
                let opaque = object.stat.is_dir()
                    && layer.opaque(&object.fd, object.covered).unwrap_or(false);
                let word = kind_word(object.stat.kind());
                if opaque {
                    format!("opaque {word}")
                } else {
                    word.into()
                }
            }
            Err(e) => layer.missing().unwrap_or_else(|| e.to_string()),
        };
        let label = layer.spec().label.clone();
        Look {
            layer: label,
            path: self.server_path(src.layer, &at),
            found,
            wins,
        }
    }

    /// A layer's path on the server.
    fn server_path(&self, layer: u8, path: &[u8]) -> String {
        let spec = self.layers[layer as usize].spec();
        let mut full = spec.base.display().to_string();
        for part in [spec.sub.as_deref().unwrap_or(b""), path] {
            if !part.is_empty() {
                full.push('/');
                full.push_str(&lossy(part));
            }
        }
        full
    }

    fn origin_words(&self, here: &Here) -> String {
        let label = |src: &Src| self.layer(*src).spec().label.clone();
        match &here.source {
            Source::One(src) => format!("from {}", label(src)),
            Source::Dir(srcs) if srcs.is_empty() => "only the view: a rule calls for it".into(),
            Source::Dir(srcs) => {
                let labels: Vec<String> = srcs.iter().map(label).collect();
                if labels.len() == 1 {
                    format!("from {}", labels[0])
                } else {
                    format!("merged from {}", labels.join(", "))
                }
            }
            Source::Con(srcs) => {
                let labels: Vec<String> = srcs.iter().map(label).collect();
                format!("concatenated from {}", labels.join(", "))
            }
            Source::Empty => "only the view: a rule calls for it and no layer has it".into(),
            Source::Link(target) => format!("only the view: a symlink to {}", lossy(target)),
            Source::Text(_) => "only the view".into(),
        }
    }

    /// `/.statelite/statelite.log`: for each rule, what was chosen and why.
    pub(super) fn render_log(&self) -> String {
        use std::fmt::Write;
        let mut log = String::new();
        for zone in self
            .rules
            .zones()
            .iter()
            .filter(|zone| zone.rule().is_some())
        {
            let at = self.rules.path(zone);
            let path = shown(&at);
            let line = match self.explain(&at) {
                Ok(why) => {
                    let to = why
                        .writes_to
                        .map_or("nothing is written".into(), |to| format!("writes to {to}"));
                    let warning = why
                        .warning
                        .map_or(String::new(), |warning| format!("; warning: {warning}"));
                    format!(
                        "{path}: {}: {} {}; {to}{warning}",
                        why.option, why.shows, why.from
                    )
                }
                Err(e) => format!("{path}: {}: {e}", option_word(zone)),
            };
            // Writing to a String cannot fail.
            if writeln!(log, "{line}").is_err() {
                break;
            }
        }
        log
    }
}

fn option_word(zone: &Zone) -> &'static str {
    match &zone.kind {
        ZoneKind::Outside => "outside every rule",
        ZoneKind::Lite(option) => option.word(),
        ZoneKind::Mirror(_) => "an upper as it is, read-only",
        ZoneKind::Default => "the image's own version, read-only",
        ZoneKind::Chain(_) => "link chain",
        ZoneKind::Text(_) | ZoneKind::Virtual => "only in the view",
    }
}

//! Values of the configuration as they are written in the file: read, checked, and refused with what is
//! wanted instead.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use super::TmpfsSize;

/// A size in bytes; a share of the memory is none.
pub(super) fn bytes<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    match TmpfsSize::deserialize(d)? {
        TmpfsSize::Bytes(bytes) => Ok(bytes),
        TmpfsSize::Percent(_) => Err(de::Error::custom(
            "a size in bytes is wanted here, such as \"128M\"",
        )),
    }
}

pub(super) fn duration<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    struct Span;
    impl Visitor<'_> for Span {
        type Value = Duration;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration with its unit, such as \"10s\" or \"500ms\"")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
            parse_duration(text).ok_or_else(|| {
                E::custom(format!(
                    "\"{text}\" is no duration: write a number with ms, s, m, h or d"
                ))
            })
        }
    }
    d.deserialize_any(Span)
}

fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().ok()?;
    let seconds = |unit: u64| number.checked_mul(unit).map(Duration::from_secs);
    match text[digits..].trim() {
        "ms" => Some(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" | "min" => seconds(60),
        "h" => seconds(3600),
        "d" => seconds(86400),
        "" if number == 0 => Some(Duration::ZERO),
        _ => None,
    }
}

pub(super) fn absolute<'de, D: Deserializer<'de>>(d: D) -> Result<PathBuf, D::Error> {
    checked_path(String::deserialize(d)?).map_err(de::Error::custom)
}

pub(super) fn absolute_or_empty<'de, D: Deserializer<'de>>(
    d: D,
) -> Result<Option<PathBuf>, D::Error> {
    let text = String::deserialize(d)?;
    if text.is_empty() {
        return Ok(None);
    }
    checked_path(text).map(Some).map_err(de::Error::custom)
}

pub(super) fn absolute_list<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<PathBuf>, D::Error> {
    let list = Vec::<String>::deserialize(d)?;
    list.into_iter()
        .map(checked_path)
        .collect::<Result<_, _>>()
        .map_err(de::Error::custom)
}

pub(super) fn remote_root<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    let text = String::deserialize(d)?;
    if !text.contains("<path>") || !text.contains("<host>") {
        return Err(de::Error::custom(format!(
            "\"{text}\" must have <host> and <path> in it, as \"/net/<host><path>\" has"
        )));
    }
    checked_path(text.clone()).map_err(de::Error::custom)?;
    Ok(text)
}

/// Can it be a name or an address? An empty one counts as one.
pub(crate) fn is_host(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b".-_:".contains(&b);
    text.bytes().all(fits) && !text.starts_with('-')
}

pub(super) fn host_name<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    let text = String::deserialize(d)?;
    if is_host(&text) {
        return Ok(text);
    }
    Err(de::Error::custom(format!(
        "{text:?} is no name or address of a host"
    )))
}

fn checked_path(text: String) -> Result<PathBuf, String> {
    if !text.starts_with('/') {
        return Err(format!("\"{text}\" is not an absolute path"));
    }
    if text.contains('\0') || Path::new(&text).components().any(|c| c.as_os_str() == "..") {
        return Err(format!("\"{text}\" must be a path without \"..\" and NUL"));
    }
    Ok(text.into())
}

pub(super) fn threads<'de, D: Deserializer<'de>>(d: D) -> Result<usize, D::Error> {
    match usize::deserialize(d)? {
        n @ 1..=256 => Ok(n),
        n => Err(de::Error::custom(format!(
            "{n} threads a session: 1 to 256 are possible"
        ))),
    }
}

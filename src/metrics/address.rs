//! Where the endpoint listens.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer};

/// An address in the configuration and on the command line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Address {
    /// `127.0.0.1:9100`, `[::1]:9100`.
    Tcp(SocketAddr),
    /// `unix:/run/statelite/metrics.sock`.
    Unix(PathBuf),
}

/// `sun_path`, with the NUL at its end.
const LONGEST_PATH: usize = 107;

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.len() {
                _ if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') => Err(
                    format!("\"{text}\": after unix: comes a file's absolute path"),
                ),
                n if n > LONGEST_PATH => Err(format!(
                    "\"{text}\": a socket's path has at most {LONGEST_PATH} bytes, this has {n}"
                )),
                _ => Ok(Address::Unix(path.into())),
            };
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() == 0 => Err(format!(
                "\"{text}\": port 0 is any port, and nobody would know which"
            )),
            Ok(address) => Ok(Address::Tcp(address)),
            Err(_) => Err(format!(
                "\"{text}\" is no address: write 127.0.0.1:9471, [::1]:9471 or \
                 unix:/run/statelite/metrics.sock"
            )),
        }
    }
}

impl Address {
    /// A configuration's value: an address, or nothing.
    ///
    /// # Errors
    /// The deserializer's, with what is wrong.
    pub fn or_empty<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Address>, D::Error> {
        match String::deserialize(d)?.as_str() {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(de::Error::custom),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "{address}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_wrong_ones_told() {
        for good in [
            "127.0.0.1:9471",
            "[::1]:9471",
            "0.0.0.0:1",
            "unix:/run/m.sock",
        ] {
            assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
        }
        let long = format!("unix:/{}", "x".repeat(107));
        let bad = [
            ("localhost:9471", "is no address"),
            ("127.0.0.1", "is no address"),
            ("::1:9471:", "is no address"),
            ("127.0.0.1:70000", "is no address"),
            ("127.0.0.1:0", "port 0"),
            ("unix:run/m.sock", "absolute path"),
            ("unix:/run/", "absolute path"),
            ("unix:", "absolute path"),
            (&long, "at most 107 bytes"),
        ];
        for (text, why) in bad {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn in_a_configuration_an_error_has_its_place() {
        use crate::config::Config;
        let parse = |text: &str| Config::parse(text, "s.toml".as_ref());
        assert_eq!(parse("metrics = \"\"").unwrap().metrics, None);
        let given = parse("metrics = \"[::1]:9471\"").unwrap().metrics;
        assert_eq!(given.unwrap().to_string(), "[::1]:9471");
        let error = parse("threads = 1\nmetrics = \"here\"")
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("s.toml:2:11: \"here\" is no address"),
            "{error}"
        );
    }
}

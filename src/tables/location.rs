//! `host:/path` and plain paths: where this server finds them (SEMANTICS section 1).
//!
//! Owns: what is this host's own name. May not: resolve a name over the network, or look whether
//! a path exists.

use std::collections::HashSet;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStringExt;
use std::sync::OnceLock;

use super::Location;
use super::book::Book;
use super::context::Context;
use super::{hosts, paths};
use crate::config::Config;

/// The names and addresses of this host.
#[derive(Debug, Default)]
pub(crate) struct LocalHosts {
    names: HashSet<String>,
    addresses: HashSet<IpAddr>,
    /// What the tables add; looked up when a host is not known otherwise.
    by_tables: OnceLock<HashSet<String>>,
}

impl LocalHosts {
    /// As the kernel and /etc/hosts say. The network is not asked: a name server that hangs must
    /// not stop a cluster's boot.
    pub(crate) fn of_this_host() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        Self::of(
            &read("/proc/sys/kernel/hostname"),
            &read("/etc/hosts"),
            &read("/proc/net/fib_trie"),
            &read("/proc/net/if_inet6"),
        )
    }

    fn of(hostname: &str, etc_hosts: &str, fib_trie: &str, if_inet6: &str) -> Self {
        let mut host = Self::default();
        let hostname = normal(hostname.trim());
        if !hostname.is_empty() {
            let short = hostname.split('.').next().unwrap_or_default().to_owned();
            host.names.extend([short, hostname]);
        }
        for line in etc_hosts.lines() {
            let mut words = line
                .split('#')
                .next()
                .unwrap_or_default()
                .split_whitespace()
                .map(normal);
            let Some(address) = words.next() else {
                continue;
            };
            let names: Vec<String> = words.collect();
            if names.iter().any(|name| host.names.contains(name)) {
                host.names.extend(names);
                host.addresses.extend(address.parse::<IpAddr>());
            }
        }
        let mut leaf = None;
        for line in fib_trie.lines().map(str::trim) {
            if let Some(address) = line.strip_prefix("|-- ") {
                leaf = address.parse::<Ipv4Addr>().ok();
            } else if line == "/32 host LOCAL" {
                host.addresses.extend(leaf.map(IpAddr::V4));
            }
        }
        for line in if_inet6.lines() {
            let digits = line.split_whitespace().next().unwrap_or_default();
            if let (32, Ok(bits)) = (digits.len(), u128::from_str_radix(digits, 16)) {
                host.addresses.insert(IpAddr::V6(Ipv6Addr::from(bits)));
            }
        }
        host
    }

    /// True where `host` means this host: by a name or address of its own, by the configuration, or
    /// by the hosts table.
    pub(crate) fn has(&self, host: &str, config: &Config, book: &Book) -> bool {
        let host = normal(host);
        self.is_own(&host)
            || config.local_hosts.iter().any(|name| normal(name) == host)
            || self
                .by_tables
                .get_or_init(|| self.read_tables(book))
                .contains(&host)
    }

    fn is_own(&self, host: &str) -> bool {
        match host.parse::<IpAddr>() {
            Ok(address) => address.is_loopback() || self.addresses.contains(&address),
            Err(_) => {
                ["localhost", "localhost.localdomain"].contains(&host) || self.names.contains(host)
            }
        }
    }

    /// The names and addresses of each row of the hosts table that has a name or an address of
    /// this host; and the host's names in site.domain.
    fn read_tables(&self, book: &Book) -> HashSet<String> {
        let mut found = HashSet::new();
        if let Some(row) = book.first("site", ["domain"], "value") {
            let domain = normal(row.text("value").trim());
            found.extend(self.names.iter().map(|name| format!("{name}.{domain}")));
        }
        for host in hosts::read(book) {
            let mut all = host.names;
            if !host.ip.is_empty() {
                all.push(normal(&host.ip));
            }
            if all.iter().any(|name| self.is_own(name)) {
                found.extend(all);
            }
        }
        found
    }
}

/// A name as it is compared.
pub(crate) fn normal(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

/// Why a location is none: the byte at which it goes wrong, what, and what to do.
pub(crate) type Fault = (usize, String, &'static str);

/// Resolves `host:/path`, `[address]:/path` or `/path`.
pub(crate) fn resolve(context: &Context<'_>, text: &[u8]) -> Result<Location, Fault> {
    let (host, path_at) = split(text)?;
    let clean = paths::clean(&text[path_at..]).map_err(|fault| {
        (
            path_at + fault.offset,
            format!("the path {}", fault.what),
            fault.help,
        )
    })?;
    let config = context.config;
    let remote = host.filter(|host| !context.hosts.has(host, config, context.book));
    let required = |top: &std::path::PathBuf| {
        paths::is_at_or_below(&clean.bytes, top.as_os_str().as_encoded_bytes())
    };
    let require_mount = remote.is_some() || config.require_mount.iter().any(required);
    let path = match remote {
        None => clean.bytes.clone(),
        Some(host) => {
            let template = config.remote_root.replace("<host>", host);
            let parts: Vec<&[u8]> = template.split("<path>").map(str::as_bytes).collect();
            parts.join(clean.bytes.as_slice())
        }
    };
    let exported = || String::from_utf8_lossy(&clean.bytes).into_owned();
    Ok(Location {
        text: String::from_utf8_lossy(text).into_owned(),
        path: OsString::from_vec(path).into(),
        remote: remote.map(|host| (host.to_owned(), exported())),
        require_mount,
    })
}

/// The host, where there is one, and the offset of the path.
fn split(text: &[u8]) -> Result<(Option<&str>, usize), Fault> {
    if text.first().is_none_or(|b| *b == b'/') {
        return Ok((None, 0));
    }
    let bracketed = text.starts_with(b"[");
    let colon = if bracketed {
        text.windows(2).position(|w| w == b"]:").map(|i| i + 1)
    } else {
        text.iter().position(|b| *b == b':')
    };
    let Some(colon) = colon.filter(|c| !text[..*c].contains(&b'/')) else {
        return Err((
            0,
            "the path is not absolute".into(),
            "write /path or host:/path",
        ));
    };
    let host = if bracketed {
        &text[1..colon - 1]
    } else {
        &text[..colon]
    };
    match std::str::from_utf8(host) {
        Ok(host)
            if host.starts_with(|c: char| c.is_ascii_alphanumeric() || c == ':')
                && host
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b".-_:%".contains(&b)) =>
        {
            Ok((Some(host), colon + 1))
        }
        _ => {
            let host = String::from_utf8_lossy(host);
            Err((
                0,
                format!("{host:?} is no host name"),
                "write /path, host:/path or [address]:/path",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::command::Commands;
    use super::super::testing::Given;
    use super::*;

    const FIB: &str = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.0\n        /24 link UNICAST\n     |-- 10.0.0.1\n        /32 host LOCAL\n     |-- 10.0.0.255\n        /32 link BROADCAST\n";
    const INET6: &str = "fe800000000000000000000000000001 02 40 20 80 eth0\n";
    const HOSTS: &str =
        "127.0.0.1 localhost\n127.0.1.1 mgt.cluster.example mgt # me\n10.9.9.9 other\n";

    fn resolved(text: &str, config: &Config) -> Result<Location, String> {
        let given = Given::default()
            .table("nodelist", "#node,groups\nsn1,service\nsn2,service\n")
            .table("site", "#key,value\ndomain,domain.example\n")
            .table("hosts", "#node,ip,hostnames\nmgtib,10.0.0.1,\"ib0,ib0.x\"\nmgt,10.1.1.1,mgtalias\nservice,|10.0.0.($1+0)|,|svc($1)|\ncn1,10.0.0.7,\n");
        let book = Book::load(&given, &mut Vec::new());
        let context = Context {
            book: &book,
            config,
            commands: &Commands::default(),
            hosts: &LocalHosts::of("Mgt\n", HOSTS, FIB, INET6),
            node: "cn1",
            groups: &[],
            image: "",
            problems: Vec::new(),
        };
        resolve(&context, text.as_bytes()).map_err(|(at, what, _)| format!("{at} {what}"))
    }

    #[test]
    fn own_names_and_addresses_are_local() {
        let config = Config {
            local_hosts: vec!["nfs.Example".into()],
            ..Config::default()
        };
        for host in [
            "mgt",
            "MGT",
            "mgt.",
            "mgt.cluster.example",
            "mgt.domain.example",
            "localhost",
            "127.0.0.1",
            "127.3.2.1",
            "[::1]",
            "10.0.0.1",
            "127.0.1.1",
            "[fe80::1]",
            "nfs.example",
            "mgtib",
            "ib0",
            "ib0.x",
            "mgtalias",
            "10.1.1.1",
            "sn1",
            "svc1",
        ] {
            let found = resolved(&format!("{host}:/a//b/"), &config).unwrap();
            assert_eq!(found.path.to_str(), Some("/a/b"), "{host}");
            assert_eq!((found.remote, found.require_mount), (None, false), "{host}");
        }
    }

    #[test]
    fn others_are_remote() {
        let config = Config::default();
        for (text, host, path) in [
            ("cn1:/state", "cn1", "/net/cn1/state"),
            ("10.0.0.255:/", "10.0.0.255", "/net/10.0.0.255/"),
            ("other:/x", "other", "/net/other/x"),
            ("sn2:/x", "sn2", "/net/sn2/x"),
            ("[fe80::2]:/x", "fe80::2", "/net/fe80::2/x"),
            ("cnfs:////x/./y", "cnfs", "/net/cnfs/x/y"),
        ] {
            let found = resolved(text, &config).unwrap();
            assert_eq!(found.path.to_str(), Some(path));
            assert_eq!(found.remote.unwrap().0, host);
            assert!(found.require_mount);
            assert_eq!(found.text, text);
        }
        let config = Config {
            remote_root: "/mnt/<path>/of/<host>".into(),
            ..config
        };
        assert_eq!(
            resolved("cn1:/s", &config).unwrap().path.to_str(),
            Some("/mnt//s/of/cn1")
        );
    }

    #[test]
    fn a_required_mount_is_at_or_above() {
        let config = Config {
            require_mount: vec!["/gpfs".into()],
            ..Config::default()
        };
        for (text, expected) in [
            ("/gpfs", true),
            ("mgt:/gpfs/x", true),
            ("/gpfs2", false),
            ("/", false),
        ] {
            assert_eq!(
                resolved(text, &config).unwrap().require_mount,
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_location() {
        for (text, expected) in [
            ("", "0 the path is empty"),
            ("state", "0 the path is not absolute"),
            ("a/b:/c", "0 the path is not absolute"),
            ("cn1:state", "4 the path is not absolute"),
            ("cn1:", "4 the path is empty"),
            (":/x", "0 \"\" is no host name"),
            ("..:/x", "0 \"..\" is no host name"),
            ("a b:/x", "0 \"a b\" is no host name"),
            ("/a/../b", "3 the path has \"..\" in it"),
            ("[::1:/x", "0 the path is not absolute"),
        ] {
            assert_eq!(
                resolved(text, &Config::default()).unwrap_err(),
                expected,
                "{text}"
            );
        }
    }
}

//! What systemd is to wait for: of fstab, the mount units that units of ours have files on.
//!
//! Owns: fstab's form, the names of units, the text of a drop-in. May not: read a table, or judge
//! whether a file system is mounted.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::sys::mountinfo::unescaped;

/// One line of fstab(5).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FstabLine {
    /// What is mounted.
    pub source: OsString,
    /// Where.
    pub point: PathBuf,
    /// The file system's type.
    pub kind: String,
    /// Its options, separated by commas; empty where the line ends before them.
    pub options: OsString,
}

/// The lines that name a type and a mount point (swap has none).
pub fn fstab(text: &[u8]) -> Vec<FstabLine> {
    let lines = text.split(|b| *b == b'\n');
    lines.filter_map(fstab_line).collect()
}

fn fstab_line(line: &[u8]) -> Option<FstabLine> {
    let mut fields = line
        .split(u8::is_ascii_whitespace)
        .filter(|field| !field.is_empty())
        .map(|field| OsString::from_vec(unescaped(field)));
    let source = fields.next().filter(|f| !f.as_bytes().starts_with(b"#"))?;
    let point = PathBuf::from(fields.next()?);
    let kind = fields.next()?.to_string_lossy().into_owned();
    point.is_absolute().then(|| FstabLine {
        source,
        point,
        kind,
        options: fields.next().unwrap_or_default(),
    })
}

/// The mount unit of a path (systemd.unit(5), "String Escaping for Inclusion in Unit Names").
pub fn mount_unit(path: &Path) -> String {
    let parts = path.components().filter_map(|part| match part {
        std::path::Component::Normal(name) => Some(name.as_bytes()),
        _ => None,
    });
    let parts: Vec<&[u8]> = parts.collect();
    let mut name = String::new();
    for (i, byte) in parts.join(&b'/').into_iter().enumerate() {
        match byte {
            b'/' => name.push('-'),
            b'.' if i > 0 => name.push('.'),
            b'_' | b':' => name.push(byte.into()),
            _ if byte.is_ascii_alphanumeric() => name.push(byte.into()),
            _ => name.push_str(&format!("\\x{byte:02x}")),
        }
    }
    if name.is_empty() {
        name.push('-');
    }
    name + ".mount"
}

/// A drop-in that has a unit wait for what fstab mounts at or above the directories that it needs, the
/// unit itself aside; `None` where fstab mounts none of them. It wants them and does not require them: a layer that is
/// missing is told by the node that misses it, and stops no other.
pub fn drop_in(unit: &str, needs: &BTreeSet<PathBuf>, fstab: &[FstabLine]) -> Option<String> {
    let is_needed = |point: &Path| needs.iter().any(|dir| dir.starts_with(point));
    let units: BTreeSet<String> = fstab
        .iter()
        // The root is mounted before anything of this.
        .filter(|line| line.point != Path::new("/") && is_needed(&line.point))
        .map(|line| mount_unit(&line.point))
        .filter(|mount| mount != unit)
        .collect();
    if units.is_empty() {
        return None;
    }
    let mut text =
        String::from("# Made by statelite-generator, of fstab and the tables.\n[Unit]\n");
    for unit in units {
        // A path with a percent sign is escaped already: no specifier.
        text.push_str(&format!("Wants={unit}\nAfter={unit}\n"));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fstab_is_read_as_mount_reads_it() {
        let text = b"# comment\n\n/dev/sda1\t/ ext4 defaults 0 1\nUUID=1 none swap sw\n\
            cn1 /srv/a\\040b statelite config=/c,_netdev\n  proc /proc proc\nhalf /line\n";
        let points = |kind| {
            let lines = fstab(text);
            let line = lines.into_iter().find(|line| line.kind == kind)?;
            Some((line.point, line.options))
        };
        assert_eq!(fstab(text).len(), 3);
        let own = (
            PathBuf::from("/srv/a b"),
            OsString::from("config=/c,_netdev"),
        );
        assert_eq!(points("statelite"), Some(own));
        assert_eq!(points("proc"), Some(("/proc".into(), OsString::new())));
        assert_eq!(points("swap"), None);
    }

    /// As `systemd-escape -p --suffix=mount` has them.
    #[test]
    fn units_are_named_as_systemd_names_them() {
        for (path, unit) in [
            ("/", "-.mount"),
            ("/srv/roots/cn1", "srv-roots-cn1.mount"),
            ("/srv//roots/", "srv-roots.mount"),
            ("/srv/a-b", "srv-a\\x2db.mount"),
            ("/srv/a b%c", "srv-a\\x20b\\x25c.mount"),
            ("/.hidden/.x", "\\x2ehidden-.x.mount"),
            ("/\u{e4}", "\\xc3\\xa4.mount"),
        ] {
            assert_eq!(mount_unit(Path::new(path)), unit, "{path}");
        }
    }

    #[test]
    fn what_fstab_mounts_above_a_layer_is_waited_for() {
        let fstab = fstab(
            b"/dev/a / ext4\n/dev/b /install ext4 noauto\nh:/x /net/h/x nfs nofail\n\
              /dev/c /inst ext4\n/dev/d /install/netboot/deeper ext4\n",
        );
        let needs: [PathBuf; 2] = ["/install/netboot".into(), "/net/h/x/node".into()];
        assert_eq!(
            drop_in("x.service", &needs.into(), &fstab)
                .unwrap()
                .lines()
                .skip(1)
                .collect::<Vec<_>>(),
            [
                "[Unit]",
                "Wants=install.mount",
                "After=install.mount",
                "Wants=net-h-x.mount",
                "After=net-h-x.mount",
            ]
        );
        assert_eq!(
            drop_in("x.service", &["/elsewhere".into()].into(), &fstab),
            None
        );
    }
}

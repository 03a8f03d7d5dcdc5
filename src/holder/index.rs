//! Which key each descriptor has that the service manager keeps.
//!
//! It gives them back with their names in one environment variable, which has room for 128 KiB
//! (MAX_ARG_STRLEN, execve(2)): with more, no holder could be started. So names are short, there are
//! only so many, and a memory that it keeps as well says what they stand for: a line for each,
//! `+NAME KEY` or `-NAME`, in the order in which that came to be.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::MemfdFlags;

use super::wire::is_object;
use crate::sys::inherit;

/// The first descriptor that is handed over (sd_listen_fds(3)).
const FIRST: i32 = 3;
/// What the memory's own name begins with, before the number of times that it was written anew.
const OWN: &str = "index-";
/// So long may all names be, each with what separates it from the next; the memory's is beside them.
const ROOM: usize = 120 << 10;
/// As long with one more object: what roots live by comes first, and programs can have any number of these.
const ROOM_FOR_OBJECTS: usize = ROOM / 2;
/// It is written anew when it is longer than this.
const LONG: u64 = 4 << 20;

/// Names by key.
#[derive(Debug, Default)]
pub(super) struct Index {
    names: BTreeMap<String, u32>,
    free: Vec<u32>,
    /// How long all names are.
    taken: usize,
    memory: Option<OwnedFd>,
    length: u64,
    /// How often it was written anew.
    times: u64,
    /// The service manager does not have it yet.
    new: bool,
}

fn name_of(mut number: u32) -> String {
    let mut name = String::new();
    loop {
        name.extend(char::from_digit(number % 36, 36));
        number /= 36;
        if number == 0 {
            return name;
        }
    }
}

/// How much of the room a name takes.
fn size_of(name: &str) -> usize {
    name.len() + 1
}

fn own_name(times: u64) -> String {
    format!("{OWN}{times}")
}

/// What the service manager hands over: descriptors by key, and the index that it goes by.
pub(super) fn of_environment() -> (Vec<(String, OwnedFd)>, Index) {
    let number = |name: &str| std::env::var(name).ok()?.parse::<i32>().ok();
    let count = match number("LISTEN_PID") {
        Some(pid) if pid.cast_unsigned() == std::process::id() => number("LISTEN_FDS"),
        _ => None,
    };
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut handed: Vec<(String, OwnedFd)> = Vec::new();
    for number in (FIRST..).take(count.unwrap_or(0).max(0).cast_unsigned() as usize) {
        let name = names.next().unwrap_or_default();
        match inherit::take(number) {
            Ok(descriptor) => handed.push((name.to_owned(), descriptor)),
            Err(error) => eprintln!("statelite: holder: {name}: {error}"),
        }
    }
    sort(handed).unwrap_or_else(|error| {
        eprintln!("statelite: holder: what was kept is not known: {error}");
        Default::default()
    })
}

/// Gives what was handed over its keys.
fn sort(handed: Vec<(String, OwnedFd)>) -> io::Result<(Vec<(String, OwnedFd)>, Index)> {
    let mut index = Index::default();
    let mut kept = BTreeMap::new();
    for (name, descriptor) in handed {
        match name.strip_prefix(OWN).map(str::parse::<u64>) {
            // The last one that was written is whole.
            Some(Ok(times)) if index.memory.is_none() || times > index.times => {
                index.times = times;
                index.memory = Some(descriptor);
            }
            Some(_) => {}
            None => drop(kept.insert(name, descriptor)),
        }
    }
    let Some(memory) = &index.memory else {
        return Ok((Vec::new(), index));
    };
    let text = read(memory)?;
    index.length = text.len() as u64;
    let mut keys = BTreeMap::new();
    for line in text.lines() {
        match (line.split_at_checked(1), line.split_once(' ')) {
            (Some(("+", _)), Some((name, key))) => drop(keys.insert(&name[1..], key)),
            (Some(("-", name)), _) => drop(keys.remove(name)),
            _ => {}
        }
    }
    let mut sorted = Vec::new();
    for (name, key) in keys {
        if let (Some(descriptor), Ok(number)) = (kept.remove(name), number_of(name)) {
            index.names.insert(key.to_owned(), number);
            index.taken += size_of(name);
            sorted.push((key.to_owned(), descriptor));
        }
    }
    let used: BTreeSet<u32> = index.names.values().copied().collect();
    let most = used.last().map_or(0, |most| most + 1);
    index.free = (0..most).filter(|number| !used.contains(number)).collect();
    Ok((sorted, index))
}

fn number_of(name: &str) -> Result<u32, std::num::ParseIntError> {
    // The least digit is the first.
    u32::from_str_radix(&name.chars().rev().collect::<String>(), 36)
}

fn read(memory: &OwnedFd) -> io::Result<String> {
    let size = rustix::fs::fstat(memory)?.st_size.cast_unsigned();
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    let mut at = 0;
    while at < bytes.len() {
        match rustix::io::pread(memory, &mut bytes[at..], at as u64)? {
            0 => break,
            n => at += n,
        }
    }
    Ok(String::from_utf8_lossy(&bytes[..at]).into_owned())
}

impl Index {
    /// Gives a key a name; none where there is no room for one more.
    pub(super) fn add(&mut self, key: &str) -> io::Result<Option<String>> {
        let next = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        let number = self.free.last().copied().unwrap_or(next);
        let name = name_of(number);
        let room = match is_object(key) {
            true => ROOM_FOR_OBJECTS,
            false => ROOM,
        };
        if self.taken + size_of(&name) > room {
            return Ok(None);
        }
        self.free.pop();
        self.taken += size_of(&name);
        self.names.insert(key.into(), number);
        self.write(&format!("+{name} {key}\n"))?;
        Ok(Some(name))
    }

    /// Takes the name of a key, where it has one.
    pub(super) fn remove(&mut self, key: &str) -> io::Result<Option<String>> {
        let Some(number) = self.names.remove(key) else {
            return Ok(None);
        };
        self.free.push(number);
        let name = name_of(number);
        self.taken -= size_of(&name);
        self.write(&format!("-{name}\n"))?;
        Ok(Some(name))
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        let text = match &self.memory {
            Some(_) if self.length < LONG => line.to_owned(),
            _ => {
                let memory = rustix::fs::memfd_create("statelite-index", MemfdFlags::CLOEXEC)?;
                (self.memory, self.length, self.new) = (Some(memory), 0, true);
                self.times += 1;
                let names = self.names.iter();
                names
                    .map(|(key, number)| format!("+{} {key}\n", name_of(*number)))
                    .collect()
            }
        };
        let Some(memory) = &self.memory else {
            return Ok(());
        };
        let mut bytes = text.as_bytes();
        while !bytes.is_empty() {
            let n = rustix::io::pwrite(memory, bytes, self.length)?;
            self.length += n as u64;
            bytes = &bytes[n..];
        }
        Ok(())
    }

    /// Where the service manager does not have it: its name, itself, and the name of the one before.
    pub(super) fn unkept(&mut self) -> io::Result<Option<(String, OwnedFd, String)>> {
        let Some(memory) = self.memory.as_ref().filter(|_| self.new) else {
            return Ok(None);
        };
        let copy = memory.try_clone()?;
        self.new = false;
        let before = self.times.saturating_sub(1);
        Ok(Some((own_name(self.times), copy, own_name(before))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn keys_come_back_with_their_descriptors() {
        let file = |n: u64| {
            let file = tempfile::tempfile().unwrap();
            file.set_len(n).unwrap();
            OwnedFd::from(file)
        };
        let size = |fd: &OwnedFd| rustix::fs::fstat(fd.as_fd()).unwrap().st_size;
        let mut index = Index::default();
        let mut store: BTreeMap<String, OwnedFd> = BTreeMap::new();
        let keep = |index: &mut Index, store: &mut BTreeMap<String, OwnedFd>, n: u64| {
            let name = index.add(&format!("session/{n}")).unwrap().unwrap();
            if let Some((new, memory, old)) = index.unkept().unwrap() {
                store.insert(new, memory);
                store.remove(&old);
            }
            assert!(store.insert(name, file(n)).is_none());
        };
        for n in 0..2000 {
            keep(&mut index, &mut store, n);
        }
        for n in (0..2000).step_by(3) {
            let name = index.remove(&format!("session/{n}")).unwrap().unwrap();
            store.remove(&name).unwrap();
        }
        for n in 3000..3100 {
            keep(&mut index, &mut store, n);
        }
        assert!(store.keys().all(|name| name.len() <= 7), "names are short");
        let (kept, mut index) = sort(store.into_iter().collect()).unwrap();
        assert_eq!(kept.len(), 2000 - 667 + 100);
        for (key, descriptor) in &kept {
            assert_eq!(*key, format!("session/{}", size(descriptor)));
        }
        assert!(index.unkept().unwrap().is_none(), "it is kept already");
        let name = index.add("one more").unwrap().unwrap();
        let known = kept.iter().filter_map(|(key, _)| index.names.get(key));
        assert!(
            !known
                .map(|number| name_of(*number))
                .any(|known| known == name)
        );
    }

    #[test]
    fn names_have_room_in_what_a_program_is_started_with() {
        let mut index = Index::default();
        let mut named = |key: String| index.add(&key).unwrap();
        let objects = (0..100_000).filter_map(|n| named(format!("session/cn1/1@2/object/{n}")));
        let objects: Vec<String> = objects.collect();
        assert!(objects.len() > 10_000, "{}", objects.len());
        // However many they are, there is room for what roots live by.
        let others = (0..100_000).map_while(|n| named(format!("session/cn{n}/1@2/device")));
        let others: Vec<String> = others.collect();
        assert!(others.len() > 10_000, "{}", others.len());
        let names = [
            objects.as_slice(),
            &others,
            &[own_name(u64::MAX), own_name(0)],
        ]
        .concat();
        let variable = format!("LISTEN_FDNAMES={}", names.join(":"));
        // execve(2): MAX_ARG_STRLEN.
        let ran = std::process::Command::new("true")
            .env("LISTEN_FDNAMES", names.join(":"))
            .status();
        assert!(ran.unwrap().success(), "{} bytes", variable.len());
        // Room that is given back is there again.
        assert_eq!(named("session/more".into()), None);
        index.remove("session/cn7/1@2/device").unwrap().unwrap();
        assert!(index.add("session/more").unwrap().is_some());
    }

    #[test]
    fn without_an_index_nothing_is_known() {
        let file = OwnedFd::from(tempfile::tempfile().unwrap());
        assert!(sort(vec![("0".into(), file)]).unwrap().0.is_empty());
    }
}

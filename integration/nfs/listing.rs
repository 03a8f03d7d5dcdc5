//! A large directory is listed while others change it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::cluster::{dir, put};
use crate::server::Client;
use crate::site::{Served, cluster};

over_both_versions!(of_the_image, of_all_layers);

const COUNT: usize = 20_000;
/// Between two changes: a server that is given no rest reads the directory again and again.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(5);

fn fill(at: &Path, numbers: impl Iterator<Item = usize>) {
    dir(at);
    numbers.for_each(|n| put(at.join(format!("stays{n}")), ""));
}

/// Lists it while `change`, told how often it was called, makes and removes others.
fn list(client: &mut Client, path: &str, mut change: impl FnMut(usize) + Send) {
    let (changes, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let changer = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                change(changes.fetch_add(1, Ordering::Relaxed));
                std::thread::sleep(PAUSE);
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // One in which something came and something went.
            loop {
                let before = changes.load(Ordering::Relaxed);
                check(&client.ask(&["list", path]).unwrap());
                assert!(!changer.is_finished(), "nobody changes it");
                if changes.load(Ordering::Relaxed) >= before + 4 {
                    break;
                }
            }
        }));
        done.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

fn check(names: &[String]) {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for name in names {
        *seen.entry(name).or_default() += 1;
    }
    for n in 0..COUNT {
        let times = seen.get(&*format!("stays{n}")).copied().unwrap_or(0);
        assert_eq!(times, 1, "stays{n}");
    }
    let others: Vec<_> = seen
        .keys()
        .filter(|name| !name.starts_with("stays"))
        .collect();
    let known = |name: &str| name.starts_with("comes") || [".", ".."].contains(&name);
    assert!(others.iter().all(|name| known(name)), "{others:?}");
}

fn of_the_image(version: u32) {
    let c = cluster();
    let at = c.image("usr/many");
    fill(&at, 0..COUNT);
    let s = Served::start(&c);
    let mut client = s.ganesha.client(version, 1);
    list(&mut client, "/usr/many", |n| {
        let path = at.join(format!("comes{}", n / 2));
        match n % 2 {
            0 => put(path, ""),
            _ => std::fs::remove_file(path).unwrap(),
        }
    });
}

fn of_all_layers(version: u32) {
    let c = cluster();
    fill(&c.image("etc/many"), (0..COUNT).step_by(4));
    fill(&c.tree(1, "etc/many"), (1..COUNT).step_by(4));
    fill(&c.tree(2, "etc/many"), (2..COUNT).step_by(4));
    let s = Served::start(&c);
    fill(&s.daemon.at(1, "etc/many"), (3..COUNT).step_by(4));
    let (mut client, mut other) = (s.ganesha.client(version, 1), s.ganesha.client(version, 1));
    list(&mut client, "/etc/many", |n| {
        let path = format!("/etc/many/comes{}", n / 2);
        match n % 2 {
            0 => other.get(&["create", &path, ""]),
            _ => other.get(&["unlink", &path]),
        };
    });
}

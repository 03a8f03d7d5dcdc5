//! The inode table's promises, kept in every order of its callers' steps that shuttle comes to.
#![cfg(test)]

mod inode;
mod sync;

use std::sync::Arc;

use inode::id;
use inode::table::{Inode, Naming, Table};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::thread::spawn;

type Node = Arc<Inode<()>>;

/// A table and the calls that the kernel makes of it.
struct Kernel(Table<()>);

impl Kernel {
    fn new() -> Arc<Kernel> {
        let table = Table::new(()).noting(|_| true);
        table.departed().begin();
        Arc::new(Kernel(table))
    }

    fn root(&self) -> Node {
        self.get(id::ROOT).expect("the root is always there")
    }

    fn get(&self, number: u64) -> Option<Node> {
        self.0.get(number)
    }

    fn lookup(&self, parent: &Node, name: &str, number: u64) -> Node {
        let at = (parent, name.as_bytes());
        let found = self.0.remember(number, at, Naming::Sole, || (), |_| false);
        found.expect("one number, one object")
    }

    /// What was looked up is there until it is forgotten.
    fn expect(&self, number: u64) -> Node {
        self.get(number)
            .expect("it was looked up and not forgotten")
    }

    fn is_empty(&self) {
        assert_eq!(self.0.len(), 1, "something is left beside the root");
        let mut numbers = Vec::new();
        self.0.for_each(|inode| numbers.push(inode.number));
        assert_eq!(numbers, [id::ROOT]);
    }
}

/// In random orders, and in those that PCT picks: few switches, each at a point that counts.
fn in_every_order(test: impl Fn() + Copy + Send + Sync + 'static) {
    let runs = std::env::var("MODEL_RUNS")
        .map_or(2000, |runs| runs.parse().expect("MODEL_RUNS: a number"));
    let config = shuttle::Config::default();
    shuttle::Runner::new(RandomScheduler::new(runs), config.clone()).run(test);
    shuttle::Runner::new(PctScheduler::new(3, runs), config).run(test);
}

#[test]
fn lookups_and_forgets_of_one_number() {
    in_every_order(|| {
        let kernel = Kernel::new();
        let root = kernel.root();
        kernel.lookup(&root, "a", 10);
        let each = |n: u64| {
            let (kernel, root) = (kernel.clone(), root.clone());
            spawn(move || {
                let found = kernel.lookup(&root, "a", 10);
                assert_eq!(found.path().as_deref(), Some(&b"a"[..]));
                assert!(
                    Arc::ptr_eq(&found, &kernel.expect(10)),
                    "two inodes of one number"
                );
                kernel.0.forget(10, n);
                // The kernel counts once more than it forgets.
                if n == 1 {
                    kernel.expect(10);
                }
            })
        };
        for thread in [each(1), each(1)] {
            thread.join().unwrap();
        }
        kernel.expect(10);
        kernel.0.forget(10, 1);
        kernel.is_empty();
    });
}

#[test]
fn a_new_object_of_a_number_that_is_just_forgotten() {
    in_every_order(|| {
        let kernel = Kernel::new();
        let root = kernel.root();
        kernel.lookup(&root, "a", 10);
        let forgets = {
            let kernel = kernel.clone();
            spawn(move || kernel.0.forget(10, 1))
        };
        let found = kernel.lookup(&root, "a", 10);
        assert!(Arc::ptr_eq(&found, &kernel.expect(10)));
        forgets.join().unwrap();
        assert!(Arc::ptr_eq(&found, &kernel.expect(10)));
        assert_eq!(found.path().as_deref(), Some(&b"a"[..]));
        kernel.0.forget(10, 1);
        kernel.is_empty();
    });
}

#[test]
fn parents_live_as_long_as_their_children() {
    in_every_order(|| {
        let kernel = Kernel::new();
        let dir = kernel.lookup(&kernel.root(), "d", 10);
        let each = |name: &'static str, number: u64| {
            let (kernel, dir) = (kernel.clone(), dir.clone());
            spawn(move || {
                let child = kernel.lookup(&dir, name, number);
                assert_eq!(child.path(), Some(format!("d/{name}").into_bytes()));
                kernel.expect(10);
                kernel.0.forget(number, 1);
            })
        };
        let forgets = {
            let kernel = kernel.clone();
            // While it has the directory's lock, the kernel does not forget the directory itself.
            let children = [each("a", 11), each("b", 12)];
            spawn(move || {
                for child in children {
                    child.join().unwrap();
                }
                kernel.0.forget(10, 1);
            })
        };
        drop(dir);
        forgets.join().unwrap();
        kernel.is_empty();
    });
}

#[test]
fn the_last_child_and_the_last_lookup_go_at_once() {
    in_every_order(|| {
        let kernel = Kernel::new();
        let dir = kernel.lookup(&kernel.root(), "d", 10);
        kernel.lookup(&dir, "a", 11);
        kernel.lookup(&dir, "b", 12);
        drop(dir);
        let forget = |number: u64| {
            let kernel = kernel.clone();
            spawn(move || kernel.0.forget(number, 1))
        };
        for thread in [forget(10), forget(11), forget(12)] {
            thread.join().unwrap();
        }
        kernel.is_empty();
    });
}

#[test]
fn renames_beside_lookups_and_forgets() {
    in_every_order(|| {
        let kernel = Kernel::new();
        let root = kernel.root();
        let (from, to) = (
            kernel.lookup(&root, "from", 10),
            kernel.lookup(&root, "to", 11),
        );
        let file = kernel.lookup(&from, "f", 12);
        let renames = {
            let (kernel, from, to, file) = (kernel.clone(), from.clone(), to.clone(), file.clone());
            spawn(move || kernel.0.rename(&file, (&from, b"f"), (&to, b"g")))
        };
        let looks = {
            let (kernel, file) = (kernel.clone(), file.clone());
            spawn(move || {
                let path = file.path().expect("it has a name all along");
                assert!([&b"from/f"[..], b"to/g"].contains(&&*path), "{path:?}");
                kernel.expect(12);
            })
        };
        let forgets = {
            let kernel = kernel.clone();
            spawn(move || kernel.0.forget(10, 1))
        };
        for thread in [renames, looks, forgets] {
            thread.join().unwrap();
        }
        assert_eq!(file.path().as_deref(), Some(&b"to/g"[..]));
        drop((from, to));
        assert!(kernel.get(10).is_none(), "nothing names it any more");
        kernel.0.forget(11, 1);
        kernel.expect(11);
        kernel.0.forget(12, 1);
        kernel.is_empty();
    });
}

#[test]
fn two_renames_of_one_object_leave_one_name() {
    in_every_order(|| {
        let kernel = Kernel::new();
        let root = kernel.root();
        let dirs: Vec<Node> = (0..3)
            .map(|n| kernel.lookup(&root, &format!("d{n}"), 20 + n))
            .collect();
        let file = kernel.lookup(&dirs[0], "f", 10);
        let rename = |to: usize| {
            let (kernel, file) = (kernel.clone(), file.clone());
            let (from, to) = (dirs[0].clone(), dirs[to].clone());
            spawn(move || kernel.0.rename(&file, (&from, b"f"), (&to, b"f")))
        };
        for thread in [rename(1), rename(2)] {
            thread.join().unwrap();
        }
        // The second one found the name gone.
        assert_eq!(file.links().len(), 1);
        for number in [20, 21, 22, 10] {
            kernel.0.forget(number, 1);
        }
        kernel.is_empty();
    });
}

#[test]
fn removal_beside_a_lookup_of_another_name() {
    in_every_order(|| {
        let kernel = Kernel::new();
        let root = kernel.root();
        let file = kernel.lookup(&root, "a", 10);
        let removes = {
            let (kernel, root, file) = (kernel.clone(), root.clone(), file.clone());
            spawn(move || kernel.0.unlink(&file, &root, b"a"))
        };
        let finds = {
            let (kernel, root) = (kernel.clone(), root.clone());
            spawn(move || {
                let at = (&root, &b"b"[..]);
                let found = kernel.0.remember(10, at, Naming::Another, || (), |_| false);
                assert!(found.is_ok());
            })
        };
        for thread in [removes, finds] {
            thread.join().unwrap();
        }
        assert_eq!(file.path().as_deref(), Some(&b"b"[..]));
        kernel.0.forget(10, 2);
        kernel.is_empty();
    });
}

#[test]
fn a_number_is_always_found_in_the_table_or_in_the_notes() {
    in_every_order(|| {
        let kernel = Kernel::new();
        let dir = kernel.lookup(&kernel.root(), "d", 10);
        kernel.lookup(&dir, "f", 11);
        drop(dir);
        let forgets = {
            let kernel = kernel.clone();
            spawn(move || {
                kernel.0.forget(10, 1);
                kernel.0.forget(11, 1);
            })
        };
        for (number, path) in [(11, &b"d/f"[..]), (10, b"d")] {
            if kernel.get(number).is_none() {
                assert_eq!(&*kernel.0.departed().paths(number), [path.into()]);
            }
        }
        forgets.join().unwrap();
        kernel.is_empty();
    });
}

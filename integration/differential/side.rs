//! One of the two sides: a view, and the actors that work in it.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use crate::harness::*;
use crate::layers;
use crate::ops::{Op, SLOTS, Step, exec};

pub type Outcome = Result<String>;

/// How a side can be made to misbehave, to see that the comparison notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Success, and nothing done.
    UnlinkDoesNothing,
    ChmodLosesSpecialBits,
    RmdirTellsAnotherErrno,
    ExchangeCopiesBack,
    TruncateIsOneShort,
    SetxattrIsLost,
    ListingLosesTheLast,
    CreateIgnoresTheUmask,
    WriteTouchesADirectory,
}

pub const FAULTS: [Fault; 9] = [
    Fault::UnlinkDoesNothing,
    Fault::ChmodLosesSpecialBits,
    Fault::RmdirTellsAnotherErrno,
    Fault::ExchangeCopiesBack,
    Fault::TruncateIsOneShort,
    Fault::SetxattrIsLost,
    Fault::ListingLosesTheLast,
    Fault::CreateIgnoresTheUmask,
    Fault::WriteTouchesADirectory,
];

fn exec_faulty(op: &Op, slots: &mut [Option<std::fs::File>], fault: Fault) -> Outcome {
    match (fault, op) {
        (Fault::UnlinkDoesNothing, Op::Unlink(p)) => lstat(p.path()).map(|_| String::new()),
        (Fault::ChmodLosesSpecialBits, Op::Chmod(p, bits)) => {
            exec(&Op::Chmod(p.clone(), bits & 0o777), slots)
        }
        (Fault::RmdirTellsAnotherErrno, Op::Rmdir(_)) => exec(op, slots).map_err(|e| match e {
            Errno::NOTEMPTY => Errno::EXIST,
            other => other,
        }),
        (Fault::ExchangeCopiesBack, Op::Exchange(a, b)) => {
            let done = exec(op, slots);
            exec(&Op::Exchange(a.clone(), b.clone()), slots).ok();
            done
        }
        (Fault::TruncateIsOneShort, Op::Truncate(p, n)) => {
            exec(&Op::Truncate(p.clone(), n.saturating_sub(1)), slots)
        }
        (Fault::SetxattrIsLost, Op::SetX(p, n, _)) => {
            let done = exec(op, slots);
            exec(&Op::RmX(p.clone(), *n), slots).ok();
            done
        }
        (Fault::ListingLosesTheLast, Op::List(_)) => exec(op, slots).map(|l| {
            l.rsplit_once(", ")
                .map_or(l.clone(), |(all, _)| all.to_owned())
        }),
        (Fault::CreateIgnoresTheUmask, Op::Create(p, bits)) => {
            let done = exec(op, slots)?;
            chmod(p.path(), *bits).map(|()| done)
        }
        (Fault::WriteTouchesADirectory, Op::Write(p, _)) => {
            let done = exec(op, slots);
            let dir = std::path::PathBuf::from(p.path());
            if let Some(parent) = dir.parent().filter(|d| !d.as_os_str().is_empty()) {
                set_times(parent, 1_000_000_001).ok();
            }
            done
        }
        _ => exec(op, slots),
    }
}

struct Actor {
    ask: Sender<Op>,
    answer: Receiver<Outcome>,
    thread: JoinHandle<()>,
}

/// root; a user with a group; a user without.
fn people() -> [Who; 3] {
    [
        Who::root(),
        Who::user(1000, 1000).groups(&[2000]),
        Who::user(1001, 1001).umask(0o027),
    ]
}

pub struct Side {
    // Before the view, which they keep busy.
    actors: Vec<Actor>,
    pub view: Overlay,
    fault: Option<Fault>,
}

impl Side {
    pub fn new(target: Target, seed: u64, fault: Option<Fault>) -> Self {
        let view = Overlay::build(target, Store::Disk, 3, |lowers, upper| {
            layers::fill(seed, lowers, upper);
        });
        let mut side = Self {
            actors: Vec::new(),
            view,
            fault,
        };
        side.start();
        side
    }

    fn start(&mut self) {
        for who in people() {
            let who = who.own_files().cwd(&self.view.root);
            let fault = self.fault;
            let (ask, asked) = channel::<Op>();
            let (tell, answer) = channel();
            let thread = std::thread::spawn(move || {
                who.become_it();
                let mut slots: Vec<Option<std::fs::File>> = (0..SLOTS).map(|_| None).collect();
                for op in asked {
                    let outcome = match fault {
                        Some(fault) => exec_faulty(&op, &mut slots, fault),
                        None => exec(&op, &mut slots),
                    };
                    if tell.send(outcome).is_err() {
                        return;
                    }
                }
            });
            self.actors.push(Actor {
                ask,
                answer,
                thread,
            });
        }
    }

    /// Ends the actors; what they had open is closed then.
    pub fn stop(&mut self) {
        for actor in self.actors.drain(..) {
            drop(actor.ask);
            actor.thread.join().unwrap();
        }
    }

    pub fn run(&mut self, step: &Step) -> Outcome {
        if matches!(step.op, Op::Remount) {
            self.remount();
            return Ok(String::new());
        }
        let actor = &self.actors[usize::from(step.who) % self.actors.len()];
        actor.ask.send(step.op.clone()).unwrap();
        actor.answer.recv().expect("an actor died")
    }

    pub fn remount(&mut self) {
        self.stop();
        self.view.remount();
        self.start();
    }

    pub fn tree(&self) -> snapshot::Tree {
        self.look(false)
    }

    fn look(&self, without_d_ino: bool) -> snapshot::Tree {
        let look = snapshot::Look {
            set_mtime: true,
            without_d_ino,
            ..Default::default()
        };
        snapshot::take(&self.view.root, look)
    }

    /// The tree as kernel overlayfs reads this side's layers.
    pub fn tree_by_overlayfs(&mut self) -> snapshot::Tree {
        self.stop();
        self.view.umount();
        self.view.target = Target::Overlayfs;
        self.view.mount();
        self.look(true)
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        for actor in self.actors.drain(..) {
            drop(actor.ask);
            actor.thread.join().ok();
        }
    }
}

//! What holder and worker say to each other: packets over a SOCK_SEQPACKET pair. A packet is a byte
//! that says what it is, then text; descriptors come with it (SCM_RIGHTS), one for each line of the
//! text.
//!
//! The two may be of different builds, so this changes by [`VERSION`] alone. A packet has arrived
//! once it is in the socket's buffer, whatever becomes of its sender.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// What both must speak.
pub const VERSION: u32 = 1;
/// The environment variable that tells a worker which descriptor leads to its holder.
pub const SOCKET: &str = "STATELITE_HOLDER";
/// What keys of descriptors begin with that are not to be let go of by themselves: while there is
/// one, a holder does not end because its worker does.
pub const PRECIOUS: &str = "session/";
/// What keys begin with that no service manager need keep, or have in them after a `/`.
pub const PASSING: &str = "passing/";

/// What stands in keys of objects that have no name any more, and that a root's programs have open: as many as they like.
pub const OBJECT: &str = "object/";

/// Need no service manager keep what is held under this key?
pub fn is_passing(key: &str) -> bool {
    has_part(key, PASSING)
}

/// Is this an object's key?
pub fn is_object(key: &str) -> bool {
    has_part(key, OBJECT)
}

/// Names of nodes may end so, and be no part by themselves.
fn has_part(key: &str, wanted: &str) -> bool {
    key.split_inclusive('/').any(|part| part == wanted)
}

/// The name of a worker's threads that tell the kernel of changes, and do nothing else. While they wait for a directory that
/// somebody looks up a name in, no signal ends them, and the answer is the next worker's: nobody waits for them.
pub const TELLS: &str = "statelite-tell";
/// The most descriptors of one packet (the kernel takes 253).
pub const MOST: usize = 64;
/// The most bytes of one packet.
const LONGEST: usize = 16 << 10;

/// What a packet is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// To the worker, first of all: the version.
    Hello,
    /// To the worker: what is held, a key a line.
    Held,
    /// To the worker: all that was given is void, and comes again.
    Anew,
    /// To the worker, after all that is held: say whether you could go on with this.
    Check,
    /// To the worker, after all that is held: it is yours. `key=value` lines, see [`Told`].
    Go,
    /// To the worker: the program that it named can't take over, and why.
    NotTaken,
    /// To the holder: hold these, a key a line; one that is held is replaced.
    Hold,
    /// To the holder: let go of these keys, or of all below one that ends in `/`.
    LetGo,
    /// To the holder: for the service manager, as it is.
    Tell,
    /// To the holder: this worker serves.
    Serves,
    /// To the holder: this worker lives.
    Lives,
    /// To the holder: it could go on.
    Fit,
    /// To the holder: it could not, and why.
    Unfit,
    /// To the holder: have this program take over; a descriptor of it, and its name.
    Replace,
}

/// Each kind's byte.
const BYTES: [(Kind, u8); 14] = [
    (Kind::Hello, b'h'),
    (Kind::Held, b'k'),
    (Kind::Anew, b'a'),
    (Kind::Check, b'c'),
    (Kind::Go, b'g'),
    (Kind::NotTaken, b'n'),
    (Kind::Hold, b'H'),
    (Kind::LetGo, b'L'),
    (Kind::Tell, b'T'),
    (Kind::Serves, b'S'),
    (Kind::Lives, b'A'),
    (Kind::Fit, b'F'),
    (Kind::Unfit, b'U'),
    (Kind::Replace, b'R'),
];

impl Kind {
    fn byte(self) -> u8 {
        let found = BYTES.iter().find(|(kind, _)| *kind == self);
        found.map_or(0, |(_, byte)| *byte)
    }

    fn of(byte: u8) -> Option<Kind> {
        let found = BYTES.iter().find(|(_, known)| *known == byte);
        found.map(|(kind, _)| *kind)
    }
}

/// What was received.
#[derive(Debug)]
pub struct Packet {
    /// `None` where it is not known here: to be passed over.
    pub kind: Option<Kind>,
    /// Its text.
    pub text: String,
    /// What came with it.
    pub descriptors: Vec<OwnedFd>,
}

/// Sends a packet; waits for room where the socket does.
///
/// # Errors
/// sendmsg(2)'s: `EPIPE` where the other side has ended, `EAGAIN` where there is no room.
pub fn send(
    socket: impl AsFd,
    kind: Kind,
    text: &str,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fits = text.len() < LONGEST && descriptors.len() <= MOST;
    if !fits
        || !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors))
    {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let kind = [kind.byte()];
    let parts = [IoSlice::new(&kind), IoSlice::new(text.as_bytes())];
    loop {
        match sendmsg(&socket, &parts, &mut control, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives a packet; `None` at the end.
///
/// # Errors
/// recvmsg(2)'s: `EAGAIN` where there is none; `InvalidData` for one that was cut off.
pub fn receive(socket: impl AsFd) -> io::Result<Option<Packet>> {
    let mut bytes = vec![0; LONGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        match recvmsg(&socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(got) => break got,
            Err(rustix::io::Errno::INTR) => {}
            // The other side ended with packets of ours unread.
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    };
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = message {
            descriptors.extend(some);
        }
    }
    let [byte, text @ ..] = &bytes[..got.bytes] else {
        return Ok(None);
    };
    if got
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(Some(Packet {
        kind: Kind::of(*byte),
        text: String::from_utf8_lossy(text).into_owned(),
        descriptors,
    }))
}

/// What a worker is told with [`Kind::Go`].
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Told {
    /// Since when the holder runs, in seconds since 1970.
    pub since: u64,
    /// How many workers there were before this one.
    pub replaced: u64,
    /// When the last of them ended, in seconds since 1970; 0 where there was none.
    pub last: u64,
    /// Why it did.
    pub why: String,
    /// By a signal that nobody sends: it was at fault itself.
    pub crashed: bool,
    /// The fleet was being stopped.
    pub stopping: bool,
    /// The program that was to take over failed, and why: this is the one from before.
    pub back: Option<String>,
}

impl Told {
    /// As text.
    pub fn write(&self) -> String {
        let one_line = |text: &str| text.replace('\n', " ");
        let mut text = format!(
            "since={}\nreplaced={}\nlast={}\nwhy={}\ncrashed={}\nstopping={}\n",
            self.since,
            self.replaced,
            self.last,
            one_line(&self.why),
            u8::from(self.crashed),
            u8::from(self.stopping)
        );
        if let Some(back) = &self.back {
            text.push_str(&format!("back={}\n", one_line(back)));
        }
        text
    }

    /// Of text; what is not known is passed over.
    pub fn read(text: &str) -> Told {
        let mut told = Told::default();
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            let number = || value.parse().unwrap_or_default();
            match key {
                "since" => told.since = number(),
                "replaced" => told.replaced = number(),
                "last" => told.last = number(),
                "why" => told.why = value.into(),
                "crashed" => told.crashed = value == "1",
                "stopping" => told.stopping = value == "1",
                "back" => told.back = Some(value.into()),
                _ => {}
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        let flags = SocketFlags::CLOEXEC;
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
    }

    #[test]
    fn what_was_sent_is_there_when_the_sender_is_gone() {
        let (worker, holder) = pair();
        let file = tempfile::tempfile().unwrap();
        for n in 0..20 {
            send(
                &worker,
                Kind::Hold,
                &format!("session/{n}"),
                &[file.as_fd()],
            )
            .unwrap();
        }
        send(&worker, Kind::Serves, "", &[]).unwrap();
        drop((worker, file));
        for n in 0..20 {
            let packet = receive(&holder).unwrap().unwrap();
            assert_eq!(packet.kind, Some(Kind::Hold));
            assert_eq!(packet.text, format!("session/{n}"));
            rustix::fs::fstat(&packet.descriptors[0]).unwrap();
        }
        assert_eq!(receive(&holder).unwrap().unwrap().kind, Some(Kind::Serves));
        assert!(receive(&holder).unwrap().is_none());
        assert!(send(&holder, Kind::Go, "", &[]).is_err());
    }

    #[test]
    fn a_packet_of_another_version_is_passed_over() {
        let (there, here) = pair();
        rustix::net::send(&there, b"?what", SendFlags::empty()).unwrap();
        let packet = receive(&here).unwrap().unwrap();
        assert_eq!((packet.kind, &*packet.text), (None, "what"));
        let long = "x".repeat(LONGEST);
        assert!(send(&there, Kind::Tell, &long, &[]).is_err());
    }

    #[test]
    fn what_is_told_comes_over() {
        let told = Told {
            since: 1,
            replaced: 2,
            last: 3,
            why: "killed by\nsignal 9 = KILL".into(),
            crashed: true,
            stopping: true,
            back: Some(String::new()),
        };
        let read = Told::read(&format!("{}new=1\nrubbish\n", told.write()));
        assert_eq!(read.why, "killed by signal 9 = KILL");
        assert_eq!(
            Told {
                why: told.why.clone(),
                ..read
            },
            told
        );
    }

    #[test]
    fn each_kind_has_a_byte_of_its_own() {
        for (kind, byte) in BYTES {
            assert_eq!((kind.byte(), Kind::of(byte)), (byte, Some(kind)));
        }
    }
}

//! What systemd is told (sd_notify(3)), by way of the holder, which is its main process.

use std::sync::Arc;
use std::time::Duration;

use crate::holder::link::Link;

/// The way to the service manager; where there is none the holder drops what it is told.
#[derive(Debug)]
pub(super) struct Manager {
    link: Arc<Link>,
}

impl Manager {
    pub(super) fn new(link: Arc<Link>) -> Manager {
        Manager { link }
    }

    /// Start or reload is over.
    pub(super) fn ready(&self, status: &str) {
        self.link.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// One line for `systemctl status`.
    pub(super) fn status(&self, status: &str) {
        self.link.tell(&format!("STATUS={status}"));
    }

    /// A reload begins.
    pub(super) fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let now = now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000;
        self.link
            .tell(&format!("RELOADING=1\nMONOTONIC_USEC={now}"));
    }

    /// The end begins.
    pub(super) fn stopping(&self) {
        self.link.tell("STOPPING=1\nSTATUS=unmounting");
    }

    /// Start or stop goes on for this long at least.
    pub(super) fn more_time(&self, time: Duration) {
        self.link
            .tell(&format!("EXTEND_TIMEOUT_USEC={}", time.as_micros()));
    }
}

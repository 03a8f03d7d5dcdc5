//! What reading the clock costs here. std's `Instant` is clock_gettime(CLOCK_MONOTONIC), which the
//! vDSO answers without a system call where the kernel's clock source can be read by programs (tsc,
//! kvm-clock, Hyper-V's page, arch_sys_counter), and with one where it can't (hpet, acpi_pm, xen).

use std::time::{Duration, Instant};

/// The vDSO takes some 20 ns; a system call with today's mitigations takes more than this.
const SLOW: Duration = Duration::from_nanos(150);

const CLOCK_SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

/// The time of one reading, the best of some.
pub fn cost() -> Duration {
    const READINGS: u32 = 64;
    let once = || {
        let begun = Instant::now();
        for _ in 0..READINGS {
            std::hint::black_box(Instant::now());
        }
        begun.elapsed() / READINGS
    };
    (0..8).map(|_| once()).min().unwrap_or_default()
}

/// Says so in the log where two readings a request are worth knowing about.
pub(super) fn tell_if_slow() {
    let cost = cost();
    if cost > SLOW {
        let source = std::fs::read_to_string(CLOCK_SOURCE).unwrap_or_default();
        tracing::warn!(
            nanoseconds = cost.as_nanos() as u64,
            source = source.trim(),
            "reading the clock is slow here, and metrics do so twice a request: choose a faster \
             clock source, or leave metrics off"
        );
    }
}

//! What is said of a distribution: percentiles and mean of a round, medians over rounds, ratios to
//! a base. No I/O.

use hdrhistogram::Histogram;
use serde::Serialize;

/// Significant digits that a histogram keeps: a figure is off by a thousandth at most.
const DIGITS: u8 = 3;

/// The figures of one distribution, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Operations that were timed.
    pub count: u64,
    /// Half of them took no longer.
    pub p50_ns: f64,
    /// 99 % took no longer.
    pub p99_ns: f64,
    /// 99.9 % took no longer.
    pub p999_ns: f64,
    /// The mean.
    pub mean_ns: f64,
}

/// Each figure of a [`Summary`] divided by the base's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// Of the medians.
    pub p50: f64,
    /// Of the 99th percentiles.
    pub p99: f64,
    /// Of the 99.9th percentiles.
    pub p999: f64,
    /// Of the means.
    pub mean: f64,
}

/// What was timed of one operation on one mount.
#[derive(Clone, Debug)]
pub struct Series {
    /// One a round.
    pub rounds: Vec<Summary>,
    /// Every round's operations together.
    pub all: Histogram<u64>,
}

impl Series {
    /// Nothing yet.
    ///
    /// # Errors
    /// None in practice: the number of digits is one that the histogram takes.
    pub fn new() -> Result<Series, hdrhistogram::CreationError> {
        Ok(Series {
            rounds: Vec::new(),
            all: Histogram::new(DIGITS)?,
        })
    }

    /// Adds a round.
    ///
    /// # Errors
    /// A figure that does not fit into a histogram on this machine.
    pub fn add(&mut self, samples: &[u64]) -> Result<(), hdrhistogram::RecordError> {
        let mut round = self.all.clone();
        round.reset();
        for sample in samples {
            round.record(*sample)?;
            self.all.record(*sample)?;
        }
        self.rounds.push(Summary::of(&round));
        Ok(())
    }

    /// The rounds' medians, figure by figure; counts add up. `None` before the first round.
    pub fn summary(&self) -> Option<Summary> {
        let each = |figure: fn(&Summary) -> f64| median(self.rounds.iter().map(figure).collect());
        Some(Summary {
            count: self.rounds.iter().map(|round| round.count).sum(),
            p50_ns: each(|s| s.p50_ns)?,
            p99_ns: each(|s| s.p99_ns)?,
            p999_ns: each(|s| s.p999_ns)?,
            mean_ns: each(|s| s.mean_ns)?,
        })
    }
}

impl Summary {
    fn of(histogram: &Histogram<u64>) -> Summary {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64;
        Summary {
            count: histogram.len(),
            p50_ns: at(0.5),
            p99_ns: at(0.99),
            p999_ns: at(0.999),
            mean_ns: (histogram.mean() * 10.0).round() / 10.0,
        }
    }

    /// This over `base`; `None` where a clock too coarse for it makes a figure of the base zero.
    pub fn over(&self, base: &Summary) -> Option<Ratio> {
        let over = |figure: f64, base: f64| (base > 0.0).then(|| figure / base);
        Some(Ratio {
            p50: over(self.p50_ns, base.p50_ns)?,
            p99: over(self.p99_ns, base.p99_ns)?,
            p999: over(self.p999_ns, base.p999_ns)?,
            mean: over(self.mean_ns, base.mean_ns)?,
        })
    }
}

/// The middle one, or the mean of the two in the middle.
pub fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    let (half, odd) = (figures.len() / 2, figures.len() % 2 == 1);
    match figures.get(half) {
        Some(upper) if odd => Some(*upper),
        Some(upper) => Some((figures[half - 1] + upper) / 2.0),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn series(rounds: &[&[u64]]) -> Series {
        let mut series = Series::new().unwrap();
        for round in rounds {
            series.add(round).unwrap();
        }
        series
    }

    #[test]
    fn medians() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![4.0]), Some(4.0));
        assert_eq!(median(vec![9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![9.0, 1.0, 2.0, 4.0]), Some(3.0));
    }

    #[test]
    fn percentiles_of_a_round() {
        let samples: Vec<u64> = (1..=1000).collect();
        let summary = series(&[&samples]).summary().unwrap();
        assert_eq!(
            summary,
            Summary {
                count: 1000,
                p50_ns: 500.0,
                p99_ns: 990.0,
                p999_ns: 999.0,
                mean_ns: 500.5
            }
        );
    }

    #[test]
    fn a_disturbed_round_does_not_move_the_medians_over_rounds() {
        let calm = [100; 50];
        let noisy = [90_000; 50];
        let summary = series(&[&calm, &noisy, &calm]).summary().unwrap();
        assert_eq!((summary.p50_ns, summary.p999_ns), (100.0, 100.0));
        assert_eq!(summary.count, 150);
    }

    #[test]
    fn no_round_has_no_figures() {
        assert_eq!(Series::new().unwrap().summary(), None);
    }

    #[test]
    fn a_slow_operation_is_kept_to_a_thousandth() {
        let hour = 3_600_000_000_000;
        let summary = series(&[&[hour]]).summary().unwrap();
        assert!((summary.p50_ns / hour as f64 - 1.0).abs() < 0.001);
    }

    #[test]
    fn ratios() {
        let base = series(&[&[100, 100, 100]]).summary().unwrap();
        let twice = series(&[&[200, 200, 200]]).summary().unwrap();
        let same = Ratio {
            p50: 1.0,
            p99: 1.0,
            p999: 1.0,
            mean: 1.0,
        };
        assert_eq!(base.over(&base), Some(same));
        let ratio = twice.over(&base).unwrap();
        assert_eq!((ratio.p50, ratio.p999, ratio.mean), (2.0, 2.0, 2.0));
        let zero = series(&[&[0]]).summary().unwrap();
        assert_eq!(base.over(&zero), None);
        assert_eq!(zero.over(&base).map(|r| r.p50), Some(0.0));
    }

    proptest! {
        #[test]
        fn percentiles_are_ordered_and_nothing_is_lost(
            rounds in prop::collection::vec(prop::collection::vec(0u64..1 << 40, 1..300), 1..6)
        ) {
            let slices: Vec<&[u64]> = rounds.iter().map(Vec::as_slice).collect();
            let series = series(&slices);
            let summary = series.summary().unwrap();
            prop_assert!(summary.p50_ns <= summary.p99_ns && summary.p99_ns <= summary.p999_ns);
            let samples: usize = rounds.iter().map(Vec::len).sum();
            prop_assert_eq!(summary.count, samples as u64);
            prop_assert_eq!(series.all.len(), samples as u64);
        }
    }
}

//! What the nodes do, from an endpoint's metrics: two scrapes make rates, rates make a table.
//!
//! Owns: reading the exposition format as far as the daemon writes it, rates, the terminal while
//! they are shown. May not: look at anything but the endpoint.

mod feed;
mod live;
mod rates;
mod scrape;
mod screen;

pub use feed::{Feed, News};
pub use live::{LiveError, live};
pub use rates::{Report, Row, Sort, Summary};
pub use scrape::{Scrape, ScrapeError};
pub use screen::print;

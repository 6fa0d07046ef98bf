//! Feeds one of the kinds of text that come from outside; `REKEYD_FEED` names it.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use rekeyd::proving::hostile::{FEEDS, Feed};

static FEED: LazyLock<Feed> = LazyLock::new(|| {
    let name = std::env::var("REKEYD_FEED").expect("REKEYD_FEED names what to feed");
    let (_, feed) = FEEDS.iter().find(|(feed, _)| *feed == name).expect("it is one of the feeds");
    *feed
});

fuzz_target!(|data: &[u8]| FEED(data));

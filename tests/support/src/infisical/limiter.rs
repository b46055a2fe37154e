//! The rate limiter: per route and address, in fixed windows from the first request on.

use std::collections::HashMap;
use std::time::Duration;

use super::answer::{Answer, Result};

#[derive(Debug, Default)]
pub(super) struct Limiter {
    /// Requests per window; off if `None`.
    pub rule: Option<(u32, Duration)>,
    windows: HashMap<(String, String), Window>,
}

#[derive(Debug)]
struct Window {
    since: Duration,
    count: u32,
}

/// Where a client stands, for the headers of its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    limit: u32,
    remaining: u32,
    reset: u64,
}

impl Limiter {
    /// Counts a request. `share` is how many times the rule's limit the route allows.
    pub fn count(
        &mut self,
        route: &str,
        share: u32,
        address: &str,
        now: Duration,
    ) -> Result<Option<Standing>> {
        let Some((limit, length)) = self.rule else {
            return Ok(None);
        };
        let limit = limit * share;
        let fresh = || Window {
            since: now,
            count: 0,
        };
        let key = (route.to_owned(), address.to_owned());
        let window = self.windows.entry(key).or_insert_with(fresh);
        if now >= window.since + length {
            *window = fresh();
        }
        window.count = window.count.saturating_add(1);
        let standing = Standing {
            limit,
            remaining: limit.saturating_sub(window.count),
            reset: (window.since + length).saturating_sub(now).as_secs().max(1),
        };
        if window.count > limit {
            return Err(standing.refusal());
        }
        Ok(Some(standing))
    }
}

impl Standing {
    pub fn add_to(self, answer: &mut Answer) {
        answer.headers.extend([
            ("x-ratelimit-limit", self.limit.to_string()),
            ("x-ratelimit-remaining", self.remaining.to_string()),
            ("x-ratelimit-reset", self.reset.to_string()),
        ]);
    }

    fn refusal(self) -> Answer {
        let message = format!(
            "Rate limit exceeded. Please try again in {} seconds",
            self.reset
        );
        let mut answer = Answer::error(429, "RateLimitExceeded", message);
        self.add_to(&mut answer);
        answer.headers.push(("retry-after", self.reset.to_string()));
        answer
    }
}

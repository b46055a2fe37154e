//! The log of requests, for tests that count calls.

/// One request that reached the server.
#[derive(Clone, Debug, PartialEq)]
pub struct Logged {
    /// E.g. `GET`.
    pub method: String,
    /// Without the query, as it came.
    pub path: String,
    /// Without the question mark, as it came.
    pub query: String,
    /// `None` while no answer has begun, and for ever if none will.
    pub status: Option<u16>,
}

#[derive(Debug, Default)]
pub(super) struct Log {
    entries: Vec<(u64, Logged)>,
    next: u64,
}

impl Log {
    /// Enters a request and gives the number under which its status can be added.
    pub fn begin(&mut self, request: Logged) -> u64 {
        self.next += 1;
        self.entries.push((self.next, request));
        self.next
    }

    pub fn end(&mut self, number: u64, status: u16) {
        if let Some((_, entry)) = self.entries.iter_mut().find(|(n, _)| *n == number) {
            entry.status = Some(status);
        }
    }

    pub fn entries(&self) -> Vec<Logged> {
        let entries = self.entries.iter();
        entries.map(|(_, entry)| entry.clone()).collect()
    }

    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

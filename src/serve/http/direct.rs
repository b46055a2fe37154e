//! Lookups that need no more than memory: read and answered without hyper and without the event
//! loop. What is allowed, and what a name stands for, is decided where every request's is.

use std::fmt::Write as _;

use crate::secret::IdText;
use crate::serve::Server;
use crate::serve::access::Peer;
use crate::serve::http::{VALUE_TYPE, authorise, path_parts};
use crate::serve::lookup::Found;

/// More headers than any driver sends. A request with more of them goes the long way.
const MAX_HEADERS: usize = 16;

/// The value that `request` asks for, if it is in memory and `peer` may have it. Whatever else the
/// request is, and whatever else its answer would be, is for [`super::answer`] to tell.
pub fn find(server: &Server, peer: Peer, request: &[u8]) -> Option<Found> {
    let lookup = Lookup::parse(request)?;
    authorise(server, peer, lookup.authorization).ok()?;
    server.lookups.hit(lookup.id)
}

/// A request for the value of an id, and nothing that asks for more than that.
struct Lookup<'a> {
    id: IdText<'a>,
    authorization: Option<&'a [u8]>,
}

impl<'a> Lookup<'a> {
    /// All of `bytes` is the request: with more behind it, it is none of these.
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let httparse::Status::Complete(length) = request.parse(bytes).ok()? else {
            return None;
        };
        let ("GET", 1) = (request.method?, request.version?) else {
            return None;
        };
        let ("lookup", Some(id)) = path_parts(request.path?) else {
            return None;
        };
        let id = IdText::parse(id)?;
        let is_plain = length == bytes.len() && request.headers.iter().all(changes_nothing);
        let mut headers = request.headers.iter();
        let authorization = headers.find(|h| h.name.eq_ignore_ascii_case("authorization"));
        is_plain.then_some(Self {
            id,
            authorization: authorization.map(|header| header.value),
        })
    }
}

/// Whether the answer is the same without this header, or with none but what we read of it.
fn changes_nothing(header: &httparse::Header<'_>) -> bool {
    let is = |name: &str| header.name.eq_ignore_ascii_case(name);
    match header.value {
        b"0" if is("content-length") => true,
        value if is("connection") => value.eq_ignore_ascii_case(b"close"),
        _ => ["host", "user-agent", "accept", "authorization"]
            .into_iter()
            .any(is),
    }
}

/// Room for a head, in bytes.
const HEAD_CAPACITY: usize = 128;

/// A value on its way to the caller.
pub struct Answer {
    head: String,
    value: Found,
    /// How many bytes the caller's socket has taken.
    pub sent: usize,
}

impl Answer {
    /// The head is byte for byte what hyper writes before a value.
    pub fn new(value: Found) -> Self {
        let mut head = String::with_capacity(HEAD_CAPACITY);
        for part in ["HTTP/1.1 200 OK\r\ncontent-type: ", VALUE_TYPE] {
            head.push_str(part);
        }
        head.push_str("\r\nconnection: close\r\ncontent-length: ");
        // A string takes whatever is written.
        let _ = write!(head, "{}\r\n\r\n", value.as_ref().len());
        Self {
            head,
            value,
            sent: 0,
        }
    }

    /// What is left of the head, and of the value.
    pub fn unsent(&self) -> (&[u8], &[u8]) {
        let (head, value) = (self.head.as_bytes(), self.value.as_ref());
        let of_head = self.sent.min(head.len());
        let of_value = (self.sent - of_head).min(value.len());
        (&head[of_head..], &value[of_value..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef012345678";

    fn parse(start: &str, headers: &str) -> Option<(String, Option<Vec<u8>>)> {
        let request = format!("{start}\r\n{headers}\r\n");
        let lookup = Lookup::parse(request.as_bytes())?;
        let authorization = lookup.authorization.map(<[u8]>::to_vec);
        Some((lookup.id.as_str().to_owned(), authorization))
    }

    #[test]
    fn what_drivers_send_is_a_lookup() {
        for headers in [
            "",
            "Host: psi\r\nConnection: close\r\n",
            "Host: localhost\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n",
            "host: psi\r\ncontent-length: 0\r\n",
        ] {
            let found = parse(&format!("GET /lookup/{ID} HTTP/1.1"), headers);
            assert_eq!(found, Some((ID.into(), None)), "{headers}");
        }
    }

    #[test]
    fn the_first_authorization_counts() {
        let headers = "Accept: */*\r\nAUTHORIZATION:  Bearer a \r\nAuthorization: Bearer b\r\n";
        let (_, authorization) = parse(&format!("GET /lookup/{ID} HTTP/1.1"), headers).unwrap();
        assert_eq!(authorization.unwrap(), b"Bearer a");
    }

    #[test]
    fn what_is_more_or_less_than_a_lookup_is_none() {
        for start in [
            "HEAD /lookup/ID HTTP/1.1",
            "get /lookup/ID HTTP/1.1",
            "GET /lookup/ID HTTP/1.0",
            "GET /lookup HTTP/1.1",
            "GET /lookup/a-name HTTP/1.1",
            "GET /status HTTP/1.1",
            "GET http://psi/lookup/ID HTTP/1.1",
            "GET //lookup/ID HTTP/1.1",
            "GET /lookup/ID HTTP/1.1\r\n",
        ] {
            let start = start.replace("ID", ID);
            assert_eq!(parse(&start, "Host: psi\r\n"), None, "{start}");
        }
        let start = format!("GET /lookup/{ID} HTTP/1.1");
        for headers in [
            "Content-Length: 1\r\n",
            "Content-Length: 0\r\nContent-Length: 1\r\n",
            "Transfer-Encoding: chunked\r\n",
            "Connection: keep-alive\r\n",
            "Connection: upgrade\r\nUpgrade: h2c\r\n",
            "Expect: 100-continue\r\n",
            "X-Unknown: 1\r\n",
            " folded\r\n",
            &"Host: psi\r\n".repeat(MAX_HEADERS + 1),
        ] {
            assert_eq!(parse(&start, headers), None, "{headers}");
        }
        let whole = format!("{start}\r\nHost: psi\r\n\r\n").into_bytes();
        assert!(Lookup::parse(&whole).is_some());
        assert!((0..whole.len()).all(|end| Lookup::parse(&whole[..end]).is_none()));
        assert!(Lookup::parse(&[&whole, b"G".as_slice()].concat()).is_none());
    }

    #[test]
    fn what_is_left_to_send_follows_what_was_sent() {
        let value = crate::locked::Locked::copy_of(b"value");
        let mut answer = Answer::new(Found::Live(std::sync::Arc::new(value)));
        let all = {
            let (head, value) = answer.unsent();
            [head, value].concat()
        };
        assert!(all.ends_with(b"content-length: 5\r\n\r\nvalue"));
        for sent in 0..=all.len() {
            answer.sent = sent;
            let (head, value) = answer.unsent();
            assert_eq!([head, value].concat(), all[sent..]);
        }
    }
}

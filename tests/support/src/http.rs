//! Whole HTTP/1.1 messages off a stream, byte for byte as they came.

use std::io::{self, BufRead, Read};

/// Largest message, in bytes; the handed-over cache is the largest that PSI sends.
const MAX_MESSAGE: u64 = 80 << 20;

/// One request or response.
pub struct Message {
    /// The first line and the headers, without the empty line.
    pub head: String,
    /// The body, without its framing.
    pub body: Vec<u8>,
    /// Everything, as it came.
    pub raw: Vec<u8>,
}

impl Message {
    /// The next request, or nothing if the other side closed instead.
    pub fn read_request(stream: &mut impl BufRead) -> io::Result<Option<Self>> {
        Self::read(stream, |head| !has_framing(head))
    }

    /// The response to a request with that method.
    pub fn read_response(stream: &mut impl BufRead, method: &str) -> io::Result<Option<Self>> {
        Self::read(stream, |head| {
            let status = head.split(' ').nth(1).unwrap_or_default();
            method == "HEAD" || matches!(status, "204" | "304")
        })
    }

    fn read(
        stream: &mut impl BufRead,
        is_bodyless: impl Fn(&str) -> bool,
    ) -> io::Result<Option<Self>> {
        let mut raw = Vec::new();
        let mut stream = stream.take(MAX_MESSAGE);
        while !raw.ends_with(b"\r\n\r\n") {
            if stream.read_until(b'\n', &mut raw)? == 0 {
                return match raw.is_empty() {
                    true => Ok(None),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        }
        let head = String::from_utf8_lossy(&raw[..raw.len() - 4]).into_owned();
        let body = match () {
            () if is_bodyless(&head) => Vec::new(),
            () if header(&head, "transfer-encoding").is_some() => {
                read_chunks(&mut stream, &mut raw)?
            }
            () => read_plain(&mut stream, &mut raw, header(&head, "content-length"))?,
        };
        Ok(Some(Self { head, body, raw }))
    }

    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// A request's method and path, without the query.
    pub fn method_and_path(&self) -> (&str, &str) {
        let mut words = self.head.split(' ');
        let method = words.next().unwrap_or_default();
        let target = words.next().unwrap_or_default();
        (method, target.split('?').next().unwrap_or_default())
    }

    /// A response's status.
    pub fn status(&self) -> u16 {
        let status = self.head.split(' ').nth(1).unwrap_or_default();
        status.parse().expect("a status")
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

fn has_framing(head: &str) -> bool {
    header(head, "content-length").is_some() || header(head, "transfer-encoding").is_some()
}

/// A body of that length; without one it ends with the connection.
fn read_plain(
    stream: &mut impl BufRead,
    raw: &mut Vec<u8>,
    length: Option<&str>,
) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    match length {
        None => {
            stream.read_to_end(&mut body)?;
        }
        Some(length) => {
            let length: u64 = length.parse().map_err(io::Error::other)?;
            stream.take(length).read_to_end(&mut body)?;
            if body.len() as u64 != length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
    raw.extend_from_slice(&body);
    Ok(body)
}

fn read_chunks(stream: &mut impl BufRead, raw: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = read_line(stream, raw)?;
        let size = size.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(size, 16).map_err(io::Error::other)?;
        if size == 0 {
            while !read_line(stream, raw)?.trim().is_empty() {}
            return Ok(body);
        }
        body.extend(read_plain(stream, raw, Some(&size.to_string()))?);
        read_line(stream, raw)?;
    }
}

fn read_line(stream: &mut impl BufRead, raw: &mut Vec<u8>) -> io::Result<String> {
    let start = raw.len();
    match stream.read_until(b'\n', raw)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(String::from_utf8_lossy(&raw[start..]).into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_on_one_connection_are_told_apart() {
        let bytes = b"POST /a?b=c HTTP/1.1\r\nContent-Length: 3\r\n\r\nxyz\
            PUT /d HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n1\r\nc\r\n0\r\n\r\n\
            GET /e HTTP/1.1\r\n\r\n";
        let mut stream = &bytes[..];
        let mut raw = Vec::new();
        let mut seen = Vec::new();
        while let Some(request) = Message::read_request(&mut stream).unwrap() {
            let (method, path) = request.method_and_path();
            let body = String::from_utf8(request.body.clone()).unwrap();
            seen.push(format!("{method} {path} {body}"));
            raw.extend(request.raw);
        }
        assert_eq!(seen, ["POST /a xyz", "PUT /d abc", "GET /e "]);
        assert_eq!(raw, bytes, "nothing is altered");
    }

    #[test]
    fn a_response_without_a_body_is_not_waited_for() {
        let mut stream = &b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\n\r\nto the end"[..];
        let first = Message::read_response(&mut stream, "DELETE")
            .unwrap()
            .unwrap();
        assert_eq!((first.status(), first.body.len()), (204, 0));
        let second = Message::read_response(&mut stream, "GET").unwrap().unwrap();
        assert_eq!(second.body, b"to the end");
    }

    #[test]
    fn a_message_that_is_cut_short_is_an_error() {
        for cut in ["GET /", "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nxy"] {
            assert!(Message::read_request(&mut cut.as_bytes()).is_err(), "{cut}");
        }
    }
}

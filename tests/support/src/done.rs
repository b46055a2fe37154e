//! How a command ended and what it said; what psi-serve answered.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// What a command said, and how it ended.
#[derive(Debug)]
pub struct Done {
    /// Nothing if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    /// # Panics
    /// If it said what is no text.
    pub fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("a text");
        Self {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// Runs a command that is given `stdin`, to its end.
    ///
    /// # Panics
    /// If it can't be run.
    pub fn run(mut command: Command, stdin: &[u8]) -> Self {
        command.stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program");
        // It may have ended before it reads.
        let _ = child.stdin.take().expect("its input").write_all(stdin);
        Self::of(child.wait_with_output().expect("its output"))
    }

    /// Expects that exit code.
    #[track_caller]
    pub fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    /// Expects each of `words` somewhere.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.has(word), "{word:?} is not in {self:?}");
        }
        self
    }

    /// Expects `text` nowhere.
    #[track_caller]
    pub fn never_says(self, text: &str) -> Self {
        assert!(!self.has(text), "{text:?} is in {self:?}");
        self
    }

    fn has(&self, text: &str) -> bool {
        self.stdout.contains(text) || self.stderr.contains(text)
    }

    /// The one recovery key that was printed: three lines on standard output, and nowhere else.
    #[track_caller]
    pub fn recovery_key(&self) -> String {
        let keys = self.recovery_keys();
        assert_eq!(keys.len(), 1, "{self:?}");
        keys[0].clone()
    }

    /// All recovery keys that were printed, as [`Done::recovery_key`].
    #[track_caller]
    pub fn recovery_keys(&self) -> Vec<String> {
        let lines: Vec<&str> = self.stdout.lines().filter(|l| is_of_a_key(l)).collect();
        assert!(!self.stderr.lines().any(is_of_a_key), "{self:?}");
        assert_eq!(lines.len() % 3, 0, "{self:?}");
        let keys = lines.chunks(3);
        keys.map(|lines| lines.join("\n") + "\n").collect()
    }
}

fn is_of_a_key(line: &str) -> bool {
    let is_group =
        |group: &str| group.len() == 8 && group.bytes().all(|b| b.is_ascii_alphanumeric());
    line.split('-').count() == 3 && line.split('-').all(is_group)
}

/// What psi-serve answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Answer {
    /// The body of a 200.
    #[track_caller]
    pub fn ok(self) -> Vec<u8> {
        assert_eq!(self.status, 200, "{}", self.text());
        self.body
    }

    /// # Panics
    /// If the body is no JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Expects an error that names `path` and a next step.
    #[track_caller]
    pub fn fails_on(&self, path: &Path) {
        let text = self.text();
        assert_eq!(self.status, 500, "{text}");
        let answer = self.json();
        let path = path.display().to_string();
        let said = |field: &str| answer[field].as_str().expect("a text");
        assert!(said("detail").contains(&path), "{text}");
        assert!(!said("hint").is_empty(), "{text}");
    }
}

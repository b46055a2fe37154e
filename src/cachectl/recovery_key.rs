//! A recovery key from standard input.

use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::protector::RecoveryKey;
use crate::stdin;

/// Symbols of a whole key: no further line is waited for.
const SYMBOLS: usize = 72;

/// The most that is read, in bytes: a key with much blank in it.
const MOST: usize = 1024;

/// The key that somebody types or pipes in, on one line or on several.
///
/// # Errors
/// [`Kind::Usage`] if it is none, naming the group that is wrong; as [`stdin::read`].
pub async fn read() -> Result<Arc<RecoveryKey>> {
    let prompt = "Recovery key (not shown; an empty line ends it): ";
    let given = stdin::read(prompt, MOST, is_whole).await?;
    let text = given.value.expose_str().ok_or_else(|| {
        Error::new(Kind::Usage, "the recovery key is not text").hint("type it as it was printed")
    })?;
    RecoveryKey::parse(text).map(Arc::new)
}

fn is_whole(text: &[u8]) -> bool {
    let symbols = text.iter().filter(|b| !b" \t\r\n-".contains(b)).count();
    symbols >= SYMBOLS || text == b"\n" || text.ends_with(b"\n\n")
}

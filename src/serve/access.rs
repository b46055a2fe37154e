//! Who may ask what: by the user id at the other end of the socket, and by the optional token.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use aws_lc_rs::constant_time::verify_slices_are_equal;

use crate::secret::SecretValue;

/// How long a replaced token is still accepted: time to change the file that callers read.
const OLD_TOKEN_LIFE: Duration = Duration::from_secs(3600);

/// The process at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Its effective user id when it connected.
    pub uid: u32,
}

/// The rules in force.
#[derive(Debug)]
pub struct Access {
    own_uid: u32,
    allowed_uids: Vec<u32>,
    token: Option<SecretValue>,
    old: Mutex<Option<(SecretValue, Instant)>>,
}

impl Access {
    /// root and `own_uid` may do everything, `allowed_uids` may look up. With a token, everyone
    /// must send it as well.
    pub fn new(own_uid: u32, allowed_uids: Vec<u32>, token: Option<SecretValue>) -> Self {
        Self {
            own_uid,
            allowed_uids,
            token,
            old: Mutex::default(),
        }
    }

    /// The same, with an `earlier` token that stays good for an hour from now on.
    #[must_use]
    pub fn accepting(self, earlier: Option<SecretValue>) -> Self {
        let old = earlier.map(|token| (token, Instant::now()));
        Self {
            old: Mutex::new(old),
            ..self
        }
    }

    /// These rules in place of `before`, whose token stays good for an hour if it is another one.
    #[must_use]
    pub fn replacing(self, before: &Access) -> Self {
        let old = match &before.token {
            Some(old) if self.token.as_ref().is_none_or(|t| !equal(t, old.expose())) => {
                Some((old.copy(), Instant::now()))
            }
            _ => {
                let earlier = before.old.lock().unwrap_or_else(PoisonError::into_inner);
                earlier
                    .as_ref()
                    .map(|(token, since)| (token.copy(), *since))
            }
        };
        *self.old.lock().unwrap_or_else(PoisonError::into_inner) = old;
        self
    }

    /// Whether `peer` may look up.
    pub fn may_look_up(&self, peer: Peer) -> bool {
        self.may_write(peer) || self.allowed_uids.contains(&peer.uid)
    }

    /// Whether `peer` may change mappings and the cache.
    pub fn may_write(&self, peer: Peer) -> bool {
        peer.uid == 0 || peer.uid == self.own_uid
    }

    /// Whether `given` is the token, compared in constant time; anything is if none is set.
    pub fn accepts_token(&self, given: Option<&[u8]>) -> bool {
        let Some(token) = &self.token else {
            return true;
        };
        let Some(given) = given else {
            return false;
        };
        let old = self.old.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old = old
            .as_ref()
            .is_some_and(|(old, since)| equal(old, given) && since.elapsed() < OLD_TOKEN_LIFE);
        equal(token, given) || is_old
    }
}

fn equal(token: &SecretValue, given: &[u8]) -> bool {
    verify_slices_are_equal(token.expose(), given).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str) -> Option<SecretValue> {
        Some(SecretValue::new(text.into()))
    }

    #[test]
    fn root_and_the_own_user_may_write_and_listed_users_may_look_up() {
        let access = Access::new(990, vec![1000], None);
        for (uid, look_up, write) in [
            (0, true, true),
            (990, true, true),
            (1000, true, false),
            (1001, false, false),
        ] {
            let peer = Peer { uid };
            assert_eq!(access.may_look_up(peer), look_up, "{uid}");
            assert_eq!(access.may_write(peer), write, "{uid}");
        }
    }

    #[test]
    fn a_token_must_be_sent_whole_if_one_is_set() {
        assert!(Access::new(0, vec![], None).accepts_token(None));
        let access = Access::new(0, vec![], token("the-token"));
        assert!(access.accepts_token(Some(b"the-token")));
        for wrong in [
            None,
            Some(b"".as_slice()),
            Some(b"the-toke"),
            Some(b"the-token2"),
        ] {
            assert!(!access.accepts_token(wrong));
        }
    }

    #[test]
    fn an_earlier_token_is_as_good_as_the_new_one_and_stays_so_over_a_reload() {
        let access = || Access::new(0, vec![], token("new-token")).accepting(token("old-token"));
        let reloaded = access().replacing(&access());
        for access in [access(), reloaded] {
            assert!(access.accepts_token(Some(b"new-token")));
            assert!(access.accepts_token(Some(b"old-token")));
            assert!(!access.accepts_token(Some(b"new-token\nold-token")));
        }
    }

    #[test]
    fn a_replaced_token_stays_good_and_the_one_before_it_does_not() {
        let first = Access::new(0, vec![], token("first-token"));
        let second = Access::new(0, vec![], token("second-token")).replacing(&first);
        assert!(second.accepts_token(Some(b"first-token")));
        assert!(second.accepts_token(Some(b"second-token")));
        let again = Access::new(0, vec![], token("second-token")).replacing(&second);
        assert!(again.accepts_token(Some(b"first-token")));
        let third = Access::new(0, vec![], token("third-token")).replacing(&again);
        assert!(third.accepts_token(Some(b"second-token")));
        assert!(!third.accepts_token(Some(b"first-token")));
    }
}

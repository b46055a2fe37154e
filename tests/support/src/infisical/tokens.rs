//! Access tokens: a JWT that carries the longest life, and the server's record with the shorter one.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::answer::{Answer, Result};
use super::world::uuid;

const THIRTY_DAYS: Duration = Duration::from_secs(2_592_000);

/// Times are Unix times of the server's own clock.
#[derive(Debug)]
pub(super) struct Tokens {
    key: RandomState,
    records: HashMap<String, Record>,
    issued: u64,
    pub ttl: Duration,
    pub max_ttl: Duration,
    /// How many requests one token is good for; 0 is without limit.
    pub max_uses: u32,
}

#[derive(Debug)]
struct Record {
    client_id: String,
    since: Duration,
    uses: u32,
}

impl Default for Tokens {
    fn default() -> Self {
        Self {
            key: RandomState::new(),
            records: HashMap::new(),
            issued: 0,
            ttl: THIRTY_DAYS,
            max_ttl: THIRTY_DAYS,
            max_uses: 0,
        }
    }
}

impl Tokens {
    /// A new token of an identity, in the server's answer to a login.
    pub fn issue(&mut self, client_id: &str, now: Duration) -> Value {
        self.issued += 1;
        let id = uuid(&(client_id, self.issued));
        let payload = json!({
            "identityId": uuid(&client_id),
            "clientSecretId": uuid(&(client_id, "secret")),
            "identityAccessTokenId": id,
            "authTokenType": "identityAccessToken",
            "iat": now.as_secs(),
            "exp": (now + self.max_ttl).as_secs(),
        });
        let record = Record {
            client_id: client_id.into(),
            since: now,
            uses: 0,
        };
        self.records.insert(id, record);
        json!({
            "accessToken": self.signed(&payload),
            "expiresIn": self.ttl.as_secs(),
            "accessTokenMaxTTL": self.max_ttl.as_secs(),
            "tokenType": "Bearer",
        })
    }

    /// The client id that `token` was given to; counts as one use.
    pub fn check(&mut self, token: &str, now: Duration) -> Result<String> {
        let id = self.verified_id(token, now)?;
        let Some(record) = self.records.get_mut(&id) else {
            return Err(Answer::unauthorized("No identity access token found"));
        };
        let ended = if now > record.since + self.ttl {
            "Failed to renew MI access token due to TTL expiration"
        } else if self.max_uses > 0 && record.uses >= self.max_uses {
            "Unable to renew because access token number of uses limit reached"
        } else {
            record.uses += 1;
            return Ok(record.client_id.clone());
        };
        self.records.remove(&id);
        Err(Answer::unauthorized(ended))
    }

    /// Forgets every token.
    pub fn forget(&mut self) {
        self.records.clear();
    }

    /// Signs with another key from now on.
    pub fn change_key(&mut self) {
        self.key = RandomState::new();
    }

    fn verified_id(&self, token: &str, now: Duration) -> Result<String> {
        let malformed = || {
            Answer::bad_token(
                "The provided access token is malformed. \
                 Please use a valid token or generate a new one and try again.",
            )
        };
        let (signed, signature) = token.rsplit_once('.').ok_or_else(malformed)?;
        let (_, payload) = signed.split_once('.').ok_or_else(malformed)?;
        let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| malformed())?;
        let payload: Value = serde_json::from_slice(&payload).map_err(|_| malformed())?;
        if signature != self.signature(signed) {
            return Err(Answer::bad_token("invalid signature"));
        }
        if payload["exp"].as_u64() <= Some(now.as_secs()) {
            return Err(Answer::bad_token(
                "Your token has expired. Please re-authenticate.",
            ));
        }
        let id = payload["identityAccessTokenId"].as_str();
        id.map(str::to_owned).ok_or_else(malformed)
    }

    fn signed(&self, payload: &Value) -> String {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
        let payload = URL_SAFE_NO_PAD.encode(payload.to_string());
        let signed = format!("{header}.{payload}");
        format!("{signed}.{}", self.signature(&signed))
    }

    /// As long as an HMAC-SHA256 and bound to the key; the server is the only one who checks it.
    fn signature(&self, signed: &str) -> String {
        let words = [0, 1, 2, 3].map(|salt: u64| self.key.hash_one((salt, signed)));
        URL_SAFE_NO_PAD.encode(words.map(u64::to_be_bytes).as_flattened())
    }
}

//! `cache.enc`, version 2: the bytes on disk.
//!
//! ```text
//! "PSIC" | 0x02 | 0x00 0x00 0x00 | header_len u32 LE | header (JSON)
//!        | nonce 12 | AES-256-GCM(ciphertext || tag)
//! ```
//!
//! Every byte before the nonce is authenticated with the ciphertext. The nonce is random at every
//! save, never counted, since an old copy of the file may be put back. Every length is checked
//! before it is used: whatever the bytes are, the outcome is the contents or [`Kind::Damaged`].

use aws_lc_rs::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use aws_lc_rs::hkdf;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::cache::table::Table;
use crate::error::{Error, Kind, Result};
use crate::gcm::{NONCE_LEN, TAG_LEN, cipher, decrypt_after_nonce, encrypt_in_place};
use crate::locked::Locked;
use crate::protector::{Key, SlotFields, SlotKind};

const MAGIC: &[u8; 4] = b"PSIC";
const VERSION: u8 = 2;
/// Magic, version, three zero bytes and the header's length.
const PREFIX_LEN: usize = 12;
/// Length of a key, in bytes.
const KEY_LEN: usize = 32;
/// Largest header, in bytes: room for some hundred slots.
const MAX_HEADER: usize = 1 << 20;
/// Enough of a file's start for [`read_header`], in bytes.
pub const MAX_START: u64 = (PREFIX_LEN + MAX_HEADER) as u64;

/// What the file says of itself in clear; authenticated, but only once it is opened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Names the data key: 16 hexadecimal digits, random.
    pub key_id: String,
    /// Counts the saves.
    pub generation: u64,
    /// When it was saved, in seconds since 1970.
    pub written_at: u64,
    /// How many values it holds.
    pub entries: u64,
    /// How many of them are kept nowhere else.
    pub local: u64,
    /// What opens it.
    pub slots: Vec<Keyslot>,
    /// No slot has or had this number or a higher one. Files from before this field have 0: those
    /// of their slots that are there tell.
    #[serde(default)]
    pub next_slot: u32,
}

/// One way to open the cache.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Keyslot {
    /// Unique in the file, never used again.
    pub id: u32,
    /// Which protector it belongs to.
    pub kind: SlotKind,
    /// For people.
    pub label: String,
    /// In seconds since 1970.
    pub created_at: u64,
    /// The data key under this slot's key, base64 of nonce, ciphertext and tag.
    pub wrapped_key: String,
    /// What the protector needs to get the slot's key again.
    #[serde(flatten)]
    pub fields: SlotFields,
}

impl Keyslot {
    /// Wraps `data_key` under `slot_key`.
    ///
    /// # Errors
    /// [`Kind::Internal`] if there is no randomness to be had.
    pub fn wrap(slot: NewSlot<'_>, slot_key: &Key, data_key: &Key) -> Result<Self> {
        let mut sealed = Zeroizing::new([0; NONCE_LEN + KEY_LEN + TAG_LEN]);
        sealed[NONCE_LEN..NONCE_LEN + KEY_LEN].copy_from_slice(data_key.expose());
        let context = wrap_context(slot.key_id, slot.id);
        encrypt_in_place(
            &wrapping_key(slot_key, &context)?,
            &context,
            sealed.as_mut_slice(),
        )?;
        Ok(Self {
            id: slot.id,
            kind: slot.kind,
            label: slot.label.to_owned(),
            created_at: slot.created_at,
            wrapped_key: BASE64.encode(sealed.as_slice()),
            fields: slot.fields,
        })
    }

    /// The data key, if `slot_key` is the one that wrapped it.
    ///
    /// # Errors
    /// [`Kind::Denied`] for another key; [`Kind::Damaged`] if no key can have wrapped it.
    pub fn unwrap(&self, key_id: &str, slot_key: &Key) -> Result<Key> {
        let wrong = || match self.kind {
            // What a device opened is the key that it sealed: then the rest is not.
            SlotKind::Tpm2 | SlotKind::Pkcs11 => damaged(&format!(
                "slot {} ({}) gives a key that is not this header's",
                self.id, self.kind
            )),
            SlotKind::Credential | SlotKind::Recovery => Error::new(
                Kind::Denied,
                format!("the key of slot {} ({}) is another one", self.id, self.kind),
            )
            .hint("it was made anew, or belongs to another host; see `psi-cachectl status`"),
        };
        let malformed = || damaged(&format!("slot {} ({}) is not readable", self.id, self.kind));
        let sealed = BASE64.decode(&self.wrapped_key).map_err(|_| malformed())?;
        if sealed.len() != NONCE_LEN + KEY_LEN + TAG_LEN {
            return Err(malformed());
        }
        let mut sealed = Zeroizing::new(sealed);
        let context = wrap_context(key_id, self.id);
        let key = wrapping_key(slot_key, &context)?;
        let plain = decrypt_after_nonce(&key, &context, &mut sealed, 0).ok_or_else(wrong)?;
        Key::from_bytes(&sealed[plain]).ok_or_else(wrong)
    }
}

/// What a new slot is to say of itself.
pub struct NewSlot<'a> {
    /// The data key's name.
    pub key_id: &'a str,
    /// Unique in the file.
    pub id: u32,
    /// The protector's kind.
    pub kind: SlotKind,
    /// For people.
    pub label: &'a str,
    /// In seconds since 1970.
    pub created_at: u64,
    /// The protector's own.
    pub fields: SlotFields,
}

fn wrap_context(key_id: &str, slot: u32) -> Vec<u8> {
    [
        b"psi slot v2".as_slice(),
        key_id.as_bytes(),
        &slot.to_le_bytes(),
    ]
    .concat()
}

/// HKDF-SHA256 without salt: the slot key is uniformly random already.
fn wrapping_key(slot_key: &Key, context: &[u8]) -> Result<LessSafeKey> {
    let info = [context];
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(slot_key.expose());
    prk.expand(&info, &AES_256_GCM)
        .map(|okm| LessSafeKey::new(UnboundKey::from(okm)))
        .map_err(|_| Error::new(Kind::Internal, "cannot derive a slot's wrapping key"))
}

/// Gives `save` the parts of the file, which are `header` in clear and authenticated, and `table`
/// encrypted under `key` where it lies. It is in clear again afterwards.
///
/// # Errors
/// [`Kind::Internal`] if the header cannot be written or there is no randomness, and what `save`
/// says.
pub fn seal<T>(
    header: &Header,
    key: &Key,
    table: &mut Table,
    save: impl FnOnce(&[&[u8]]) -> Result<T>,
) -> Result<T> {
    let internal =
        |what: &str| Error::new(Kind::Internal, format!("cannot seal the cache: {what}"));
    let json = serde_json::to_vec(header).map_err(|e| internal("its header").because(e))?;
    if json.len() > MAX_HEADER {
        return Err(internal("too many slots"));
    }
    // Nothing is written that could not be read.
    if !is_key_id(&header.key_id) {
        return Err(internal("the name of its key"));
    }
    let length = u32::try_from(json.len()).map_err(|_| internal("its header"))?;
    let start = [
        MAGIC.as_slice(),
        &[VERSION, 0, 0, 0],
        &length.to_le_bytes(),
        &json,
    ]
    .concat();
    let cipher = cipher(key)?;
    encrypt_in_place(&cipher, &start, table.envelope())?;
    let saved = save(&[&start, table.envelope()]);
    decrypt_after_nonce(&cipher, &start, table.envelope(), 0)
        .ok_or_else(|| internal("its contents could not be read back"))?;
    saved
}

/// Reads the header, which nothing vouches for until [`open`] has succeeded.
///
/// # Errors
/// [`Kind::Damaged`], saying what is wrong with the file.
pub fn read_header(file: &[u8]) -> Result<Header> {
    split(file).map(|(header, _)| header)
}

/// The format's version, if the file begins as a cache does.
pub fn version(file: &[u8]) -> Option<u8> {
    file.strip_prefix(MAGIC)?.first().copied()
}

/// Decrypts the contents in place.
///
/// # Errors
/// [`Kind::Damaged`] if a single bit of the file is not as it was saved.
pub fn open(mut file: Locked, key: &Key) -> Result<(Header, Table)> {
    let (header, nonce_at) = split(&file)?;
    let aad = file[..nonce_at].to_vec();
    let plain = decrypt_after_nonce(&cipher(key)?, &aad, &mut file, nonce_at)
        .ok_or_else(|| damaged("its contents are not what was saved"))?;
    Ok((header, Table::parse(file, plain)?))
}

fn split(file: &[u8]) -> Result<(Header, usize)> {
    let prefix = file
        .get(..PREFIX_LEN)
        .ok_or_else(|| damaged("it is too short"))?;
    if &prefix[..4] != MAGIC {
        return Err(damaged("it does not begin with PSIC"));
    }
    match prefix[4] {
        VERSION if prefix[5..8] == [0, 0, 0] => {}
        1 => return Err(version_1()),
        version => return Err(damaged(&format!("its version is {version}, not {VERSION}"))),
    }
    let mut length = [0; 4];
    length.copy_from_slice(&prefix[8..]);
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_HEADER {
        return Err(damaged("its header is too long"));
    }
    let nonce_at = PREFIX_LEN + length;
    let json = file
        .get(PREFIX_LEN..nonce_at)
        .ok_or_else(|| damaged("its header is cut short"))?;
    let unreadable = || damaged("its header is not readable");
    let header: Header = serde_json::from_slice(json).map_err(|_| unreadable())?;
    match is_key_id(&header.key_id) {
        true => Ok((header, nonce_at)),
        false => Err(unreadable()),
    }
}

fn is_key_id(text: &str) -> bool {
    let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.len() == 16 && text.bytes().all(is_digit)
}

fn version_1() -> Error {
    Error::new(
        Kind::Damaged,
        "the cache has version 1, which psi-serve carries over when it opens it",
    )
    .hint("`systemctl restart psi-secrets.service`; `journalctl -u psi-secrets` says if that failed, and why")
}

/// The cache file is not what PSI wrote.
pub(super) fn damaged(why: &str) -> Error {
    Error::new(Kind::Damaged, format!("the cache file is damaged: {why}")).hint(
        "restore it from a backup, or `psi-cachectl init --backend tpm --force` and `systemctl restart psi-infisical-setup.service` for a new one",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::EntryKey;

    fn table() -> Table {
        let key = EntryKey::from_bytes(&[3; 32]).unwrap();
        Table::build(&[9; 32], [(&key, b"the value".as_slice())].into_iter()).unwrap()
    }

    fn sealed(header: &Header, key: &Key) -> Vec<u8> {
        seal(header, key, &mut table(), |parts| Ok(parts.concat())).unwrap()
    }

    fn sample() -> (Header, Key, Vec<u8>) {
        let key = Key::from_bytes(&[1; 32]).unwrap();
        let slot_key = Key::from_bytes(&[2; 32]).unwrap();
        let slot = NewSlot {
            key_id: "0011223344556677",
            id: 1,
            kind: SlotKind::Credential,
            label: "first",
            created_at: 5,
            fields: SlotFields::new(),
        };
        let header = Header {
            key_id: "0011223344556677".into(),
            generation: 7,
            written_at: 9,
            entries: 2,
            local: 0,
            slots: vec![Keyslot::wrap(slot, &slot_key, &key).unwrap()],
            next_slot: 2,
        };
        let file = sealed(&header, &key);
        (header, key, file)
    }

    #[test]
    fn what_was_sealed_opens_again() {
        let (header, key, file) = sample();
        assert_eq!(read_header(&file).unwrap(), header);
        let (opened, contents) = open(Locked::copy_of(&file), &key).unwrap();
        assert_eq!(opened, header);
        assert_eq!(contents.text(), table().text());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_damage() {
        let (_, key, file) = sample();
        for bit in 0..file.len() * 8 {
            let mut copy = Locked::copy_of(&file);
            copy[bit / 8] ^= 1 << (bit % 8);
            let error = open(copy, &key).err().unwrap();
            assert_eq!(error.kind(), Kind::Damaged, "bit {bit}");
        }
        for length in 0..file.len() {
            let error = open(Locked::copy_of(&file[..length]), &key).err().unwrap();
            assert_eq!(error.kind(), Kind::Damaged, "length {length}");
        }
    }

    #[test]
    fn a_slot_opens_with_its_own_key_only() {
        let (header, key, _) = sample();
        let slot = &header.slots[0];
        let right = Key::from_bytes(&[2; 32]).unwrap();
        let opened = slot.unwrap(&header.key_id, &right).unwrap();
        assert_eq!(opened.expose(), key.expose());
        let wrong = Key::from_bytes(&[3; 32]).unwrap();
        assert_eq!(
            slot.unwrap(&header.key_id, &wrong).unwrap_err().kind(),
            Kind::Denied
        );
        assert!(slot.unwrap("0011223344556678", &right).is_err());
    }

    #[test]
    fn a_table_is_in_clear_again_whether_or_not_it_could_be_saved() {
        let (header, key, _) = sample();
        let mut contents = table();
        for outcome in [Ok(()), Err(Error::new(Kind::Io, "the disk is full"))] {
            let failed = outcome.is_err();
            let saved = seal(&header, &key, &mut contents, |_| outcome);
            assert_eq!(saved.is_err(), failed);
            assert_eq!(contents.text(), table().text());
        }
    }

    #[test]
    fn an_altered_slot_of_a_device_is_damage_and_not_another_key() {
        let (header, _, _) = sample();
        let right = Key::from_bytes(&[2; 32]).unwrap();
        let mut slot = header.slots[0].clone();
        slot.kind = SlotKind::Tpm2;
        assert!(slot.unwrap(&header.key_id, &right).is_ok());
        let (first, rest) = slot.wrapped_key.split_at(1);
        let other = if first == "A" { "B" } else { "A" };
        for (wrapped_key, key_id) in [
            (slot.wrapped_key.clone(), "0011223344556678"),
            (format!("{other}{rest}"), &header.key_id),
            (rest[3..].to_owned(), &header.key_id),
            ("no base64".to_owned(), &header.key_id),
        ] {
            slot.wrapped_key = wrapped_key;
            let error = slot.unwrap(key_id, &right).unwrap_err();
            assert_eq!(error.kind(), Kind::Damaged, "{error}");
        }
    }

    #[test]
    fn two_saves_of_the_same_contents_share_no_nonce() {
        let (header, key, first) = sample();
        let second = sealed(&header, &key);
        assert_ne!(first, second);
    }

    #[test]
    fn version_1_is_named_as_such() {
        let error = read_header(b"PSIC\x01\x01aaaaaaaaaaaaaaaa").unwrap_err();
        assert!(error.to_string().contains("version 1"), "{error}");
    }
}

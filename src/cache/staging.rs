//! What a cache is to take over, while it is read: values in locked memory, in the order in which they
//! came, and beside them which entry of which workload each is.

use crate::cache::table::EntryKey;
use crate::error::{Error, Kind, Result};
use crate::locked::Locked;

/// Memory for values is taken in pieces of this size, in bytes; a larger value has one of its own.
const PIECE: usize = 256 << 10;

/// Values that no table has yet.
#[derive(Default)]
pub struct Staging {
    pieces: Vec<Piece>,
    entries: Vec<Staged>,
}

/// Some of the values, one behind the other.
struct Piece {
    bytes: Locked,
    used: usize,
    /// How many bytes the pieces before it use.
    start: usize,
}

/// Where a value lies among all that are staged, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub at: u32,
    pub length: u32,
}

/// What a value is staged for.
#[derive(Clone, Copy)]
pub struct Staged {
    pub key: EntryKey,
    pub value: Place,
    /// The number of the workload that gets it.
    pub workload: u32,
}

impl Staging {
    /// Whether nothing is staged.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What is staged, ascending by key after [`Staging::sort`].
    pub fn entries(&self) -> &[Staged] {
        &self.entries
    }

    /// Stages a value of no workload.
    ///
    /// # Errors
    /// [`Kind::Refused`] if there is too much of it.
    pub fn add(&mut self, key: EntryKey, value: &[u8]) -> Result<()> {
        let copy = |room: &mut [u8]| {
            room.get_mut(..value.len())?.copy_from_slice(value);
            Some(value.len())
        };
        let place = self.take(value.len(), copy).ok_or_else(too_large)?;
        self.name(key, place, 0);
        Ok(())
    }

    /// Takes a value of at most `length` bytes: `fill` writes it to the start of what it is given,
    /// and says how long it is. Nothing if that fails.
    pub fn take(
        &mut self,
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) -> Option<Place> {
        let piece = self.room(length)?;
        let length = fill(&mut piece.bytes[piece.used..])?;
        let place = Place {
            at: u32::try_from(piece.start + piece.used).ok()?,
            length: u32::try_from(length).ok()?,
        };
        piece.used += length;
        Some(place)
    }

    /// Says which entry of the workload with this number has the value.
    pub fn name(&mut self, key: EntryKey, value: Place, workload: u32) {
        self.entries.push(Staged {
            key,
            value,
            workload,
        });
    }

    /// The length of all values, in bytes.
    pub fn length(&self) -> usize {
        self.pieces
            .last()
            .map_or(0, |piece| piece.start + piece.used)
    }

    /// The last piece, with room for `length` bytes.
    fn room(&mut self, length: usize) -> Option<&mut Piece> {
        let last = self.pieces.last();
        if last.is_none_or(|piece| piece.bytes.len() - piece.used < length) {
            self.pieces.push(Piece {
                bytes: Locked::zeroed(length.max(PIECE)),
                used: 0,
                start: last.map_or(0, |piece| piece.start + piece.used),
            });
        }
        self.pieces.last_mut()
    }

    /// Brings what is staged for the same key together, in the order in which it came.
    pub fn sort(&mut self) {
        self.entries.sort_unstable_by(|a, b| {
            (&a.key, a.value, a.workload).cmp(&(&b.key, b.value, b.workload))
        });
    }

    /// The value of `staged`.
    pub fn value(&self, staged: &Staged) -> &[u8] {
        let at = staged.value.at as usize;
        let after = self.pieces.partition_point(|piece| piece.start <= at);
        let Some(piece) = after.checked_sub(1).and_then(|i| self.pieces.get(i)) else {
            return &[];
        };
        &piece.bytes[at - piece.start..][..staged.value.length as usize]
    }

    /// Gives all values to `put`, in the order in which they came and with where they begin, and
    /// lets go of their memory on the way.
    pub fn drain(self, mut put: impl FnMut(usize, &[u8])) {
        drop(self.entries);
        for piece in self.pieces {
            put(piece.start, &piece.bytes[..piece.used]);
        }
    }
}

fn too_large() -> Error {
    Error::new(Kind::Refused, "the values do not fit into one cache")
        .hint("drop large values, or give the workloads fewer folders")
}

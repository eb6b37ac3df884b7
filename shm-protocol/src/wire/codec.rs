//! The cursor that frames are read with and the buffer that they are written with.
//!
//! The cursor checks every length against the frame before it reads; it never allocates by a number that it
//! read, only by one that it has compared with the bytes at hand.

use super::WireError;
use crate::key::{KEY_BYTES, Key};
use crate::text::is_plain;

/// Reads little-endian fields from a frame.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    frame: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// A cursor at the start of a frame.
    pub fn new(frame: &'a [u8]) -> Cursor<'a> {
        Cursor { frame, at: 0 }
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], WireError> {
        let end = self
            .at
            .checked_add(len)
            .filter(|end| *end <= self.frame.len());
        let Some(end) = end else {
            return Err(WireError::Short {
                field,
                len: self.frame.len(),
            });
        };
        let bytes = &self.frame[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], WireError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N, field)?);
        Ok(array)
    }

    /// One byte.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, WireError> {
        Ok(self.array::<1>(field)?[0])
    }

    /// Two bytes.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, WireError> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    /// Four bytes.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, WireError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    /// Four bytes, signed.
    pub fn i32(&mut self, field: &'static str) -> Result<i32, WireError> {
        Ok(i32::from_le_bytes(self.array(field)?))
    }

    /// Eight bytes.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, WireError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// A key.
    pub fn key(&mut self) -> Result<Key, WireError> {
        Ok(Key::from_bytes(&self.array::<KEY_BYTES>("a key")?)?)
    }

    /// Four bytes whose number is within `least..=most`.
    pub fn within(
        &mut self,
        least: usize,
        most: usize,
        field: &'static str,
    ) -> Result<u32, WireError> {
        let number = self.u32(field)?;
        if !(least..=most).contains(&(number as usize)) {
            return Err(WireError::Range {
                field,
                value: u64::from(number),
                least: least as u64,
                most: most as u64,
            });
        }
        Ok(number)
    }

    /// A text of four bytes of length and that many bytes, at most `most` long.
    pub fn page(&mut self, most: usize, field: &'static str) -> Result<&'a str, WireError> {
        let len = self.count(0, most, 1, field)?;
        core::str::from_utf8(self.bytes(len, field)?).map_err(|_| WireError::Text(field))
    }

    /// A count of four bytes within `least..=most`, whose items of `item_bytes` each must be in the frame.
    pub fn count(
        &mut self,
        least: usize,
        most: usize,
        item_bytes: usize,
        field: &'static str,
    ) -> Result<usize, WireError> {
        let count = self.within(least, most, field)? as usize;
        if count * item_bytes > self.frame.len() - self.at {
            return Err(WireError::Short {
                field,
                len: self.frame.len(),
            });
        }
        Ok(count)
    }

    /// The next `count` records of `N` bytes each, checked once for all of them.
    pub fn records<const N: usize>(
        &mut self,
        count: usize,
        field: &'static str,
    ) -> Result<&'a [[u8; N]], WireError> {
        let (records, _) = self.bytes(count.saturating_mul(N), field)?.as_chunks::<N>();
        Ok(records)
    }

    /// A text of two bytes of length and that many bytes, `least..=most` long, without NUL.
    pub fn text(
        &mut self,
        least: usize,
        most: usize,
        field: &'static str,
    ) -> Result<&'a str, WireError> {
        let len = usize::from(self.u16(field)?);
        if !(least..=most).contains(&len) {
            return Err(WireError::Range {
                field,
                value: len as u64,
                least: least as u64,
                most: most as u64,
            });
        }
        let text =
            core::str::from_utf8(self.bytes(len, field)?).map_err(|_| WireError::Text(field))?;
        if text.contains('\0') {
            return Err(WireError::Text(field));
        }
        Ok(text)
    }

    /// A text as [`Cursor::text`], without control characters.
    pub fn plain_text(
        &mut self,
        least: usize,
        most: usize,
        field: &'static str,
    ) -> Result<&'a str, WireError> {
        let text = self.text(least, most, field)?;
        if !is_plain(text) {
            return Err(WireError::Text(field));
        }
        Ok(text)
    }

    /// Ends the reading: nothing may be left.
    pub fn finish(self) -> Result<(), WireError> {
        match self.frame.len() - self.at {
            0 => Ok(()),
            left => Err(WireError::Trailing(left)),
        }
    }
}

/// Writes little-endian fields into a frame.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// An empty buffer.
    pub fn new() -> Writer {
        Writer {
            bytes: Vec::with_capacity(256),
        }
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    /// Two bytes.
    pub fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Four bytes.
    pub fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Four bytes, signed.
    pub fn i32(&mut self, value: i32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Records of `N` bytes each, after their count of four bytes.
    pub fn records<const N: usize>(&mut self, records: impl ExactSizeIterator<Item = [u8; N]>) {
        self.u32(records.len() as u32);
        self.bytes.reserve(records.len() * N);
        records.for_each(|record| self.bytes.extend_from_slice(&record));
    }

    /// Bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// A text with two bytes of length before it; cut at a character when it is longer than 65,535 bytes.
    pub fn text(&mut self, text: &str) {
        let len = text.floor_char_boundary(usize::from(u16::MAX));
        self.u16(len as u16);
        self.bytes(&text.as_bytes()[..len]);
    }

    /// A text with four bytes of length before it.
    pub fn page(&mut self, text: &str) {
        self.u32(text.len() as u32);
        self.bytes(text.as_bytes());
    }

    /// The finished frame, its length filled in.
    pub fn finish(mut self) -> Vec<u8> {
        let len = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&len.to_le_bytes());
        self.bytes
    }
}

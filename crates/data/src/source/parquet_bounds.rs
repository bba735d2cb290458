//! What a parquet file claims of itself, held to its length before memory is taken for it.
//!
//! The decoder checks its own footer. It believes pages: how long they are decompressed, how many values a dictionary has, how many
//! lengths a column of strings begins with, and takes memory for as many, which no one survives to catch. So each page's header is
//! read here first, and each page is looked at before its decoder sees it.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use parquet::basic::{Compression, Encoding};
use parquet::bloom_filter::Sbbf;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};
use parquet::file::reader::{ChunkReader, Length, RowGroupReader};
use parquet::record::reader::RowIter;
use parquet::schema::types::{ColumnDescPtr, Type};

/// Longest header of a page, its statistics included.
const MAX_HEADER: u64 = 1 << 20;
/// What a page may be decompressed to in any case.
const SMALL_PAGE: i64 = 1 << 20;

fn lie(message: String) -> ParquetError {
    ParquetError::General(message)
}

/// A file of which no more is asked for than there is.
pub(super) struct CheckedFile {
    file: File,
    length: u64,
}

impl CheckedFile {
    pub(super) fn new(file: File) -> io::Result<Self> {
        Ok(Self { length: file.metadata()?.len(), file })
    }

    /// The file itself, for [`check_pages`].
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, length: self.length })
    }
}

impl Length for CheckedFile {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for CheckedFile {
    type T = BufReader<File>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        self.file.get_read(start)
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<bytes::Bytes> {
        if start.saturating_add(length as u64) > self.length {
            return Err(lie(format!("{length} bytes from {start} on are claimed, the file has {}", self.length)));
        }
        self.file.get_bytes(start, length)
    }
}

/// Walks over the headers of a column's pages: each page lies in the column, and claims no more than its codec can make of it.
pub(super) fn check_pages(file: &CheckedFile, column: &ColumnChunkMetaData) -> Result<()> {
    let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
    let claimed = (u64::try_from(start), u64::try_from(column.compressed_size()));
    let (Ok(mut at), Ok(length)) = claimed else {
        return Err(lie("a column begins or ends before the file".to_owned()));
    };
    let end = at.saturating_add(length);
    if end > file.length {
        return Err(lie(format!("a column ends at byte {end}, the file has {}", file.length)));
    }
    while at < end {
        let header = header_at(file, at, end)?;
        let Header { length, uncompressed, compressed } = header;
        let next = at.saturating_add(length as u64).saturating_add(u64::try_from(compressed).unwrap_or(u64::MAX));
        if uncompressed < 0 || next > end {
            return Err(lie(format!("a page of {compressed} bytes is claimed at byte {at}, its column ends at {end}")));
        }
        if uncompressed > compressed.saturating_mul(most(column.compression())).max(SMALL_PAGE) {
            return Err(lie(format!("the page at byte {at} claims to hold {uncompressed} bytes in {compressed}")));
        }
        at = next;
    }
    Ok(())
}

/// How many times as long a codec's output can be, at most.
fn most(codec: Compression) -> i64 {
    match codec {
        Compression::UNCOMPRESSED => 1,
        Compression::SNAPPY => 64,
        Compression::LZ4 | Compression::LZ4_RAW | Compression::LZO => 256,
        Compression::GZIP(_) => 1_100,
        Compression::ZSTD(_) | Compression::BROTLI(_) => 1 << 15,
    }
}

/// What a page's header says of sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    /// Bytes of the header itself.
    length: usize,
    uncompressed: i64,
    compressed: i64,
}

fn header_at(file: &CheckedFile, at: u64, end: u64) -> Result<Header> {
    let mut read = &file.file;
    read.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    for most in [1 << 10, MAX_HEADER] {
        read.take((end - at).min(most) - bytes.len() as u64).read_to_end(&mut bytes)?;
        if let Some(header) = Compact::of(&bytes).page_header() {
            return Ok(header);
        }
    }
    Err(lie(format!("the header of the page at byte {at} is damaged")))
}

/// Thrift's compact protocol, as far as it takes to pass over what is not asked for.
struct Compact<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Compact<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }
}

impl Compact<'_> {
    const DEPTH: usize = 16;
    const I32: u8 = 5;

    fn page_header(mut self) -> Option<Header> {
        let (mut uncompressed, mut compressed) = (None, None);
        let mut id = 0;
        while let Some(kind) = self.field(&mut id)? {
            match (id, kind) {
                (2, Self::I32) => uncompressed = Some(self.number()?),
                (3, Self::I32) => compressed = Some(self.number()?),
                _ => self.pass(kind, Self::DEPTH)?,
            }
        }
        Some(Header { length: self.at, uncompressed: uncompressed?, compressed: compressed? })
    }

    fn byte(&mut self) -> Option<u8> {
        self.at += 1;
        self.bytes.get(self.at - 1).copied()
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn number(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// The kind of the next field of a structure; `Some(None)` at its end.
    fn field(&mut self, id: &mut i64) -> Option<Option<u8>> {
        let head = self.byte()?;
        if head == 0 {
            return Some(None);
        }
        *id = match head >> 4 {
            0 => self.number()?,
            delta => id.saturating_add(i64::from(delta)),
        };
        Some(Some(head & 0x0f))
    }

    fn pass(&mut self, kind: u8, depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match kind {
            // A truth in a structure stands in its head.
            1 | 2 => {}
            3 => drop(self.byte()?),
            4..=6 => drop(self.varint()?),
            7 => self.at = self.at.checked_add(8)?,
            8 => self.at = usize::try_from(self.varint()?).ok()?.checked_add(self.at)?,
            9 | 10 => {
                let head = self.byte()?;
                let count = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
                for _ in 0..count {
                    match head & 0x0f {
                        1 | 2 => drop(self.byte()?),
                        kind => self.pass(kind, depth)?,
                    }
                }
            }
            12 => {
                let mut id = 0;
                while let Some(kind) = self.field(&mut id)? {
                    self.pass(kind, depth)?;
                }
            }
            // Maps are in no header of a page.
            _ => return None,
        }
        (self.at <= self.bytes.len()).then_some(())
    }
}

/// A row group whose pages are looked at before they are decoded.
pub(super) struct CheckedGroup<'a>(pub(super) Box<dyn RowGroupReader + 'a>);

impl RowGroupReader for CheckedGroup<'_> {
    fn metadata(&self) -> &RowGroupMetaData {
        self.0.metadata()
    }

    fn num_columns(&self) -> usize {
        self.0.num_columns()
    }

    fn get_column_page_reader(&self, i: usize) -> Result<Box<dyn PageReader>> {
        let column = self.metadata().schema_descr().column(i);
        Ok(Box::new(CheckedPages { pages: self.0.get_column_page_reader(i)?, column }))
    }

    fn get_column_bloom_filter(&self, i: usize) -> Option<&Sbbf> {
        self.0.get_column_bloom_filter(i)
    }

    fn get_row_iter(&self, projection: Option<Type>) -> Result<RowIter<'_>> {
        RowIter::from_row_group(projection, self)
    }
}

struct CheckedPages {
    pages: Box<dyn PageReader>,
    column: ColumnDescPtr,
}

impl Iterator for CheckedPages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for CheckedPages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.pages.get_next_page()?;
        page.iter()
            .try_for_each(|page| check_page(page, (self.column.max_rep_level(), self.column.max_def_level())))?;
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.pages.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.pages.at_record_boundary()
    }
}

/// Refuses a page for whose counts the decoder would take memory that the page's bytes do not answer for. `levels` are the greatest
/// repetition and definition level.
fn check_page(page: &Page, levels: (i16, i16)) -> Result<()> {
    let (buf, count) = (page.buffer(), page.num_values() as usize);
    match (page, page.encoding()) {
        // A plain value takes at least a byte.
        (Page::DictionaryPage { .. }, _) if count > buf.len() => {
            Err(lie(format!("a dictionary claims {count} values in {} bytes", buf.len())))
        }
        (Page::DictionaryPage { .. }, _) => Ok(()),
        (_, Encoding::DELTA_BYTE_ARRAY) => Err(lie(
            "texts are stored as differences (DELTA_BYTE_ARRAY), which is not read here; write the file with plain or \
             dictionary encoding"
                .to_owned(),
        )),
        (_, Encoding::DELTA_LENGTH_BYTE_ARRAY) => {
            let values = values_of(page, levels).and_then(|at| buf.get(at..)).unwrap_or_default();
            let mut head = Compact::of(values);
            let total = (|| {
                head.varint()?;
                head.varint()?;
                head.varint()
            })();
            // A block of 128 lengths takes five bytes at least.
            match total {
                Some(total) if total <= page.num_values().into() && total <= 256 * buf.len() as u64 => Ok(()),
                Some(total) => Err(lie(format!("a page of {count} values claims {total} lengths"))),
                None => Err(lie("a page of lengths is damaged".to_owned())),
            }
        }
        _ => Ok(()),
    }
}

/// Where a page's values begin, after its levels.
fn values_of(page: &Page, (repetition, definition): (i16, i16)) -> Option<usize> {
    let levels_of = |buf: &[u8], at: usize, most: i16, encoding: Encoding, count: usize| {
        if most == 0 {
            return Some(at);
        }
        match encoding {
            Encoding::RLE => {
                let length = u32::from_le_bytes(buf.get(at..at.checked_add(4)?)?.try_into().ok()?);
                at.checked_add(4)?.checked_add(length as usize)
            }
            _ => {
                let bits = (16 - most.leading_zeros()) as usize;
                at.checked_add(count.checked_mul(bits)?.div_ceil(8))
            }
        }
    };
    match page {
        Page::DataPage { buf, num_values, def_level_encoding, rep_level_encoding, .. } => {
            let count = *num_values as usize;
            let at = levels_of(buf, 0, repetition, *rep_level_encoding, count)?;
            levels_of(buf, at, definition, *def_level_encoding, count)
        }
        Page::DataPageV2 { def_levels_byte_len, rep_levels_byte_len, .. } => {
            (*def_levels_byte_len as usize).checked_add(*rep_levels_byte_len as usize)
        }
        Page::DictionaryPage { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dictionary(bytes: usize, num_values: u32) -> Page {
        Page::DictionaryPage { buf: vec![0; bytes].into(), num_values, encoding: Encoding::PLAIN, is_sorted: false }
    }

    fn lengths(buf: Vec<u8>, num_values: u32, encoding: Encoding) -> Page {
        Page::DataPage {
            buf: buf.into(),
            num_values,
            encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        }
    }

    #[test]
    fn counts_that_the_bytes_do_not_answer_for_are_refused() {
        assert!(check_page(&dictionary(8, 2), (0, 0)).is_ok());
        let error = check_page(&dictionary(8, u32::MAX), (0, 0)).unwrap_err().to_string();
        assert!(error.contains("claims 4294967295 values in 8 bytes"), "{error}");
        // 2 bytes of levels; then 128 values a block, 4 miniblocks, the total.
        let page = |total: &[u8]| [&[2, 0, 0, 0, 6, 1][..], &[0x80, 1, 4], total, &[0; 20]].concat();
        let delta = |total: &[u8]| check_page(&lengths(page(total), 3, Encoding::DELTA_LENGTH_BYTE_ARRAY), (0, 1));
        assert!(delta(&[3]).is_ok());
        let error = delta(&[0xff, 0xff, 0xff, 0xff, 0x7f]).unwrap_err().to_string();
        assert!(error.contains("a page of 3 values claims 34359738367 lengths"), "{error}");
        assert!(delta(&[0xff; 11]).is_err());
        let differences = check_page(&lengths(page(&[3]), 3, Encoding::DELTA_BYTE_ARRAY), (0, 1)).unwrap_err();
        assert!(differences.to_string().contains("dictionary encoding"));
    }

    #[test]
    fn headers_are_read_whatever_else_they_hold() {
        // type 0, 1000 bytes of 300, a structure with a number, a text and a list of two truths.
        let bytes =
            [0x15, 0, 0x15, 0xd0, 0x0f, 0x15, 0xd8, 0x04, 0x2c, 0x15, 6, 0x18, 2, b'a', b'b', 0x19, 0x21, 1, 2, 0, 0];
        let header = |bytes: &[u8]| Compact::of(bytes).page_header();
        assert_eq!(header(&bytes), Some(Header { length: bytes.len(), uncompressed: 1000, compressed: 300 }));
        assert!((0..bytes.len()).all(|cut| header(&bytes[..cut]).is_none()));
        // A text that claims more than there is; structures in structures without end.
        assert_eq!(header(&[0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]), None);
        assert_eq!(header(&[0x1c; 1000]), None);
    }
}

//! The bytes of TensorBoard's event files: records as TFRecord frames them, each a protobuf `Event`.
//!
//! Frame: length `u64`, masked CRC-32C of these 8 bytes, data, masked CRC-32C of the data; all little-endian
//! (tensorflow/core/lib/io/record_writer.h). Messages: tensorflow/core/util/event.proto, tensorflow/core/framework/summary.proto
//! and tensor.proto, of which so few fields are needed that a protobuf library would be more code than this. Checked by
//! reading the files with the `tensorboard` package: see [`super`].

use crc::{CRC_32_ISCSI, Crc, Table};

/// CRC-32C.
static CASTAGNOLI: Crc<u32, Table<1>> = Crc::<u32, Table<1>>::new(&CRC_32_ISCSI);

/// `SessionLog.SessionStatus.START`.
const START: u64 = 1;
/// `DataType.DT_STRING`.
const DT_STRING: u64 = 7;
/// `DataClass.DATA_CLASS_TENSOR`.
const DATA_CLASS_TENSOR: u64 = 2;

/// When something happened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct When {
    /// Seconds since 1970.
    pub(super) wall: f64,
    /// Steps done.
    pub(super) step: u64,
}

/// A protobuf message, field after field.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u64, wire_type: u64) {
        self.raw_varint(field << 3 | wire_type);
    }

    fn varint(mut self, field: u64, value: u64) -> Self {
        self.key(field, 0);
        self.raw_varint(value);
        self
    }

    fn double(mut self, field: u64, value: f64) -> Self {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn float(mut self, field: u64, value: f32) -> Self {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, field: u64, bytes: &[u8]) -> Self {
        self.key(field, 2);
        self.raw_varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    fn text(self, field: u64, text: &str) -> Self {
        self.bytes(field, text.as_bytes())
    }

    fn message(self, field: u64, message: &Message) -> Self {
        self.bytes(field, &message.0)
    }
}

fn event(at: When) -> Message {
    Message::default().double(1, at.wall).varint(2, at.step)
}

/// The record that every file begins with.
pub(super) fn version(wall: f64) -> Vec<u8> {
    framed(&Message::default().double(1, wall).text(3, "brain.Event:2").0)
}

/// Has TensorBoard drop what it has read of this step and later ones: they come again.
pub(super) fn start(at: When) -> Vec<u8> {
    framed(&event(at).message(7, &Message::default().varint(1, START)).0)
}

/// Numbers of one step, each with its tag.
pub(super) fn scalars(at: When, values: &[(String, f64)]) -> Vec<u8> {
    let mut summary = Message::default();
    for (tag, value) in values {
        summary = summary.message(1, &Message::default().text(1, tag).float(2, *value as f32));
    }
    framed(&event(at).message(5, &summary).0)
}

/// Markdown for the text plugin: a tensor of one string, in a list, as TensorBoard's own writer gives it.
pub(super) fn text(at: When, tag: &str, markdown: &str) -> Vec<u8> {
    let one = Message::default().message(2, &Message::default().varint(1, 1));
    let tensor = Message::default().varint(1, DT_STRING).message(2, &one).text(8, markdown);
    let plugin = Message::default().text(1, "text");
    let metadata = Message::default().message(1, &plugin).varint(4, DATA_CLASS_TENSOR);
    let value = Message::default().text(1, tag).message(8, &tensor).message(9, &metadata);
    framed(&event(at).message(5, &Message::default().message(1, &value)).0)
}

/// Rotated and shifted, so that the checksum of data that holds checksums is no special number.
fn masked(bytes: &[u8]) -> u32 {
    CASTAGNOLI.checksum(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn framed(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend(length);
    record.extend(masked(&length).to_le_bytes());
    record.extend_from_slice(data);
    record.extend(masked(data).to_le_bytes());
    record
}

/// The other way round, for tests.
#[cfg(test)]
pub(super) mod reading {
    use super::masked;

    /// What a record says.
    #[derive(Debug, Clone, PartialEq)]
    pub(in super::super) enum Said {
        Version,
        Start(u64),
        /// The step, and a tag and a number each; a text has none.
        Values(u64, Vec<(String, Option<f32>)>),
    }

    /// Number of a field, and its bytes or its value.
    type Field<'a> = (u64, &'a [u8], u64);

    fn varint(bytes: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let (first, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            value |= u64::from(first & 0x7f) << shift;
            shift += 7;
            if first & 0x80 == 0 {
                return value;
            }
        }
    }

    fn fields(mut bytes: &[u8]) -> Vec<Field<'_>> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let length = match key & 7 {
                0 => {
                    found.push((key >> 3, &[][..], varint(&mut bytes)));
                    continue;
                }
                1 => 8,
                2 => varint(&mut bytes) as usize,
                _ => 4,
            };
            let (value, rest) = bytes.split_at(length);
            bytes = rest;
            found.push((key >> 3, value, 0));
        }
        found
    }

    fn field<'a>(fields: &[Field<'a>], number: u64) -> Option<Field<'a>> {
        fields.iter().find(|field| field.0 == number).copied()
    }

    /// Every record of a file, its checksums checked.
    pub(in super::super) fn records(mut bytes: &[u8]) -> Vec<Said> {
        let mut said = Vec::new();
        while !bytes.is_empty() {
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let (data, end) = (&bytes[12..12 + length], 16 + length);
            assert_eq!(bytes[8..12], masked(&bytes[..8]).to_le_bytes());
            assert_eq!(bytes[end - 4..end], masked(data).to_le_bytes());
            bytes = &bytes[end..];
            let event = fields(data);
            let step = field(&event, 2).map_or(0, |field| field.2);
            said.push(match field(&event, 5) {
                Some((_, summary, _)) => {
                    let value = |(_, value, _): &Field<'_>| {
                        let value = fields(value);
                        let tag = String::from_utf8(field(&value, 1).unwrap().1.to_vec()).unwrap();
                        let number =
                            field(&value, 2).map(|(_, bytes, _)| f32::from_le_bytes(bytes.try_into().unwrap()));
                        (tag, number)
                    };
                    Said::Values(step, fields(summary).iter().map(value).collect())
                }
                None if field(&event, 7).is_some() => Said::Start(step),
                None => Said::Version,
            });
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Bytes that TensorBoard's own protobuf classes and record writer give for the same events (tensorboard 2.21):
    /// `RecordWriter(file).write(event.SerializeToString())` of `tensorboard.summary.writer.record_writer`.
    #[test]
    fn records_are_those_of_tensorboards_own_writer() {
        let at = When { wall: 1.5, step: 300 };
        let values = [("train/loss".to_owned(), 2.5), ("timing/tokens_per_s".to_owned(), 1e6)];
        let expected = include_str!("golden.txt").lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>();
        assert_eq!(hex(&version(1.5)), expected[0]);
        assert_eq!(hex(&start(at)), expected[1]);
        assert_eq!(hex(&scalars(at, &values)), expected[2]);
        assert_eq!(hex(&text(at, "samples/Once", "größer\n")), expected[3]);
        assert_eq!(hex(&text(at, "samples/Once", &"long ".repeat(60))), expected[4]);
    }
}

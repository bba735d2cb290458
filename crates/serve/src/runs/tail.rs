//! A file of lines that grows: what is new since it was read last, and whether what was read is still its beginning.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;

use super::line::MOST_LINE;

/// Bytes read at once.
const BLOCK: usize = 8 << 20;
/// Bytes before the place reached that are compared: some rows, whose timings no two runs share.
const COMPARED: usize = 4 << 10;

/// What reading comes upon.
pub(super) trait Heard {
    /// The file is no longer what it was: all that was heard is void.
    fn anew(&mut self);
    /// Whole lines, each with its line break.
    fn lines(&mut self, bytes: &[u8]);
    /// A line of more bytes than any may have.
    fn too_long(&mut self);
}

/// A file and the place in it up to which it was read.
#[derive(Debug)]
pub(super) struct Tail {
    path: PathBuf,
    /// Behind the last whole line, or within a line that is too long.
    offset: u64,
    /// The bytes before it.
    before: Vec<u8>,
    /// Within a line that is too long.
    skipping: bool,
    block: usize,
}

impl Tail {
    pub(super) fn new(path: PathBuf) -> Self {
        Tail { path, offset: 0, before: Vec::new(), skipping: false, block: BLOCK }
    }

    /// Reads what is new. A last line without its line break waits until it has it.
    pub(super) fn read(&mut self, heard: &mut impl Heard) -> io::Result<()> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.begin_anew(heard);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if !self.still_holds(&mut file)? {
            self.begin_anew(heard);
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let (mut block, mut held) = (Vec::new(), 0);
        loop {
            // What is new is mostly a row or two.
            let left = file.metadata()?.len().saturating_sub(self.offset);
            block.resize(self.block.min(usize::try_from(left).unwrap_or(usize::MAX)).max(held + 1), 0);
            let read = read_full(&mut file, &mut block[held..])?;
            held += read;
            if read == 0 {
                return Ok(());
            }
            let Some(end) = block[..held].iter().rposition(|byte| *byte == b'\n').map(|at| at + 1) else {
                if held > MOST_LINE {
                    if !self.skipping {
                        heard.too_long();
                    }
                    self.skipping = true;
                    self.advance(&block[..held]);
                    held = 0;
                }
                continue;
            };
            let mut lines = &block[..end];
            if self.skipping {
                let first = lines.iter().position(|byte| *byte == b'\n').map_or(end, |at| at + 1);
                lines = &lines[first..];
                self.skipping = false;
            }
            heard.lines(lines);
            self.advance(&block[..end]);
            block.copy_within(end..held, 0);
            held -= end;
        }
    }

    fn begin_anew(&mut self, heard: &mut impl Heard) {
        if self.offset > 0 {
            heard.anew();
        }
        *self = Tail { block: self.block, ..Tail::new(std::mem::take(&mut self.path)) };
    }

    /// Whether the bytes before the place reached are those that were read there.
    fn still_holds(&self, file: &mut File) -> io::Result<bool> {
        let mut found = vec![0; self.before.len()];
        file.seek(SeekFrom::Start(self.offset - self.before.len() as u64))?;
        let read = read_full(file, &mut found)?;
        Ok(read == found.len() && found == self.before)
    }

    fn advance(&mut self, read: &[u8]) {
        self.offset += read.len() as u64;
        self.before.extend_from_slice(&read[read.len().saturating_sub(COMPARED)..]);
        let surplus = self.before.len().saturating_sub(COMPARED);
        self.before.drain(..surplus);
    }
}

/// As many bytes as there are, up to the buffer's length.
fn read_full(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Write;

    use super::*;

    #[derive(Default)]
    struct Log {
        text: String,
        anew: usize,
        too_long: usize,
    }

    impl Heard for Log {
        fn anew(&mut self) {
            self.text.clear();
            self.anew += 1;
        }

        fn lines(&mut self, bytes: &[u8]) {
            self.text += std::str::from_utf8(bytes).unwrap();
        }

        fn too_long(&mut self) {
            self.too_long += 1;
        }
    }

    struct Scene {
        _folder: tempfile::TempDir,
        tail: Tail,
        log: Log,
    }

    impl Scene {
        fn new(block: usize) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let tail = Tail { block, ..Tail::new(folder.path().join("metrics.jsonl")) };
            Scene { _folder: folder, tail, log: Log::default() }
        }

        fn append(&self, text: &str) {
            let mut file = OpenOptions::new().create(true).append(true).open(&self.tail.path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }

        fn read(&mut self) -> &str {
            self.tail.read(&mut self.log).unwrap();
            &self.log.text
        }
    }

    #[test]
    fn what_is_new_is_read_once_and_a_torn_line_waits() {
        for block in [1, 2, 3, 7, 64] {
            let mut scene = Scene::new(block);
            assert_eq!(scene.read(), "");
            scene.append("one\ntw");
            assert_eq!(scene.read(), "one\n");
            scene.append("o\nthree\n\nf");
            assert_eq!(scene.read(), "one\ntwo\nthree\n\n");
            assert_eq!(scene.read(), "one\ntwo\nthree\n\n");
            assert_eq!(scene.log.anew, 0);
        }
    }

    #[test]
    fn a_file_that_was_cut_back_changed_or_removed_is_read_anew() {
        let mut scene = Scene::new(8);
        scene.append("one\ntwo\nthree\n");
        scene.read();
        // Cut back by a resume, and grown beyond its old length before anybody looked.
        fs::write(&scene.tail.path, "one\nTWO\nTHREE\nfour\n").unwrap();
        assert_eq!(scene.read(), "one\nTWO\nTHREE\nfour\n");
        fs::write(&scene.tail.path, "one\n").unwrap();
        assert_eq!(scene.read(), "one\n");
        fs::write(&scene.tail.path, "").unwrap();
        assert_eq!(scene.read(), "");
        scene.append("five\n");
        assert_eq!(scene.read(), "five\n");
        fs::remove_file(&scene.tail.path).unwrap();
        assert_eq!(scene.read(), "");
        assert_eq!(scene.log.anew, 4);
        // A copy of the same bytes is the same file.
        scene.append("six\n");
        scene.read();
        fs::remove_file(&scene.tail.path).unwrap();
        scene.append("six\nseven\n");
        assert_eq!((scene.read().to_owned(), scene.log.anew), ("six\nseven\n".to_owned(), 4));
    }

    #[test]
    fn a_line_without_end_takes_no_memory_and_ends() {
        let mut scene = Scene::new(4 * MOST_LINE);
        scene.append("one\n");
        scene.append(&"x".repeat(6 * MOST_LINE));
        assert_eq!(scene.read(), "one\n");
        scene.append(&"x".repeat(MOST_LINE));
        scene.append("x\ntwo\n");
        assert_eq!(scene.read(), "one\ntwo\n");
        assert_eq!((scene.log.too_long, scene.log.anew), (1, 0));
    }
}

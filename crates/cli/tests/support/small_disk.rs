//! A disk of a few pages, in a mount namespace of its own: it needs no rights where the system allows namespaces to
//! everyone, and is gone with the process that holds it, however the test ends.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use tempfile::TempDir;

/// An empty tmpfs of a given size.
pub struct SmallDisk {
    holder: Child,
    said: BufReader<ChildStdout>,
    _mount_point: TempDir,
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one of `kilobytes`; `None`, with a printed note, where the system refuses.
    pub fn new(kilobytes: u32) -> Option<Self> {
        for flags in [&["--user", "--map-root-user", "--mount"][..], &["--mount"]] {
            let mount_point = tempfile::tempdir().unwrap();
            // The disk lives until the holder's stdin is closed; each line on it is an option to mount it with again.
            let script = "mount -t tmpfs -o size=\"$1\"k,mode=0777 none \"$0\" && echo mounted || exit 1
                while read -r option; do mount -o remount,\"$option\" \"$0\" && echo again || echo refused; done";
            let mut command = Command::new("unshare");
            command.args(flags).args(["sh", "-c", script]).arg(mount_point.path()).arg(kilobytes.to_string());
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            let Ok(mut holder) = command.spawn() else { continue };
            let mut line = String::new();
            let mut said = BufReader::new(holder.stdout.take().unwrap());
            said.read_line(&mut line).unwrap();
            // The namespace as seen from here.
            let inside = mount_point.path().strip_prefix("/").unwrap();
            let path = PathBuf::from(format!("/proc/{}/root", holder.id())).join(inside);
            let disk = SmallDisk { holder, said, _mount_point: mount_point, path };
            if line == "mounted\n" && disk.path().is_dir() {
                return Some(disk);
            }
        }
        println!("skipped: this system mounts no tmpfs for a test");
        None
    }

    /// Makes it read-only, or writable again.
    pub fn set_read_only(&mut self, read_only: bool) {
        let option = if read_only { "ro" } else { "rw" };
        writeln!(self.holder.stdin.as_mut().unwrap(), "{option}").unwrap();
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        assert_eq!(line, "again\n", "{option}");
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Closes its stdin, whereupon it ends by itself; waited for so that the mount point is free.
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

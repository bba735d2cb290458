//! A library's panic that is expected: it becomes an error and is not told as if the program had failed.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    /// Whether this thread is inside [`contained`].
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`; `None` where it panicked, of which nothing is printed. Panics of other threads and other places are told as
/// ever. What `work` has left half-changed is not to be used any more.
pub(super) fn contained<T>(work: impl FnOnce() -> T) -> Option<T> {
    // The hook belongs to the whole process, so it asks each thread, and hands on to the one that was there.
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let former = take_hook();
        set_hook(Box::new(move |panic| {
            if !INSIDE.get() {
                former(panic);
            }
        }));
    });
    let outer = INSIDE.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    INSIDE.set(outer);
    done.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{panic_any, resume_unwind};
    use std::process::Command;
    use std::sync::mpsc::channel;

    /// Tells the child from the test.
    const CHILD: &str = "CASALLM_TEST_CONTAINED";

    #[test]
    fn only_what_is_contained_is_not_told() {
        // What panics print goes to the whole process's stderr, so this same test runs in a process of its own.
        if std::env::var_os(CHILD).is_some() {
            assert_eq!(contained(|| 5), Some(5));
            assert_eq!(contained(|| -> u8 { panic!("silent one") }), None);
            let nested = contained(|| {
                assert_eq!(contained(|| -> u8 { panic!("silent two") }), None);
                panic!("silent three")
            });
            assert_eq!(nested, None::<u8>);
            // Another thread, while this one is inside.
            let (inside, entered) = channel();
            let other = std::thread::spawn(move || {
                entered.recv().unwrap();
                panic!("told one")
            });
            contained(|| {
                inside.send(()).unwrap();
                other.join().unwrap_err();
            })
            .unwrap();
            // This thread, after it.
            let told = catch_unwind(|| panic_any("told two")).unwrap_err();
            resume_unwind(told);
        }
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "source::contained::tests::only_what_is_contained_is_not_told", "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(101), "{stderr}");
        assert!(stderr.contains("told one") && stderr.contains("told two"), "{stderr}");
        assert!(!stderr.contains("silent") && stderr.matches("panicked at").count() == 2, "{stderr}");
    }
}

//! Files that do not arrive are named with the reason, and never shown.

use super::*;

#[test]
fn a_file_that_changes_under_way_is_noticed() {
    let changing = |fault| vec![File::made("a.parquet", 1, 300_000).with(fault), File::made("b.parquet", 2, 1000)];
    let mut trial = Trial::of(changing(Fault::Changes(2)));
    let (path, fault) = trial.failed();
    assert_eq!(path, "a.parquet");
    assert!(
        matches!(&fault, FileFault::Changed { what: "its SHA-256", found, .. } if found.starts_with("cccc")),
        "{fault:?}"
    );
    trial.assert_whole(&[File::made("b.parquet", 2, 1000)]);
    assert!(!trial.out().join("a.parquet").exists());

    // Where only the name of the bytes changes it begins again, and the hash decides.
    let mut trial = Trial::of(changing(Fault::ChangesQuietly(2)));
    let (path, fault) = trial.failed();
    assert_eq!(path, "a.parquet");
    assert!(matches!(&fault, FileFault::Corrupt { times: 3, .. }), "{fault:?}");
    let bodies: Vec<u64> =
        trial.server.bodies().iter().filter(|body| body.path == "a.parquet").map(|body| body.from).collect();
    assert_eq!(bodies, [0, 150_000, 0, 0, 0], "a range of the new version was taken for one of the old");
}

#[test]
fn damaged_bytes_are_fetched_anew_and_never_shown() {
    let files = vec![File::made("a.parquet", 1, 100_000).with(Fault::Corrupt(2))];
    let mut trial = Trial::of(files.clone());
    trial.fetch().unwrap();
    trial.assert_whole(&files);
    assert_eq!(trial.retries.len(), 2);

    let mut trial = Trial::of(vec![File::made("a.parquet", 1, 100_000).with(Fault::Corrupt(99))]);
    let expected = trial.server.id("a.parquet").to_owned();
    let (_, fault) = trial.failed();
    assert!(matches!(&fault, FileFault::Corrupt { expected: id, times: 3, .. } if *id == expected), "{fault:?}");
    assert!(!trial.out().join("a.parquet").exists());
    // Nor is it believed by the next run.
    assert!(matches!(trial.failed().1, FileFault::Corrupt { .. }));
}

#[test]
fn what_does_not_come_is_given_up_by_name() {
    for (fault, said) in [
        (Fault::Status(500), "500"),
        (Fault::Status(429), "429"),
        (Fault::EndlessRedirect, "redirects"),
        (Fault::Length(5), "it sends 5 bytes, the listing says 1000"),
        (Fault::TooLong, "more than the 1000 bytes"),
        (Fault::CutAfter(0), "cut after 0 of 1000 bytes"),
        (Fault::Expired(99), "403"),
    ] {
        let mut trial = Trial::of(vec![File::made("a.parquet", 1, 1000).with(fault), File::made("b.parquet", 2, 1000)]);
        let error = trial.fetch().unwrap_err();
        let text = error.to_string();
        assert!(text.contains("a.parquet: given up after 8 tries") && text.contains(said), "{fault:?}: {text}");
        assert!(!text.contains("b.parquet") && !text.contains("hf_secret"), "{text}");
        trial.assert_whole(&[File::made("b.parquet", 2, 1000)]);
        assert_eq!(trial.retries.len(), 7, "{fault:?}");
    }
    for (fault, said) in [(Fault::Status(404), "404"), (Fault::Status(403), "as a test wants it")] {
        let mut trial = Trial::of(vec![File::made("a.parquet", 1, 1000).with(fault)]);
        let (_, found) = trial.failed();
        assert!(matches!(&found, FileFault::Refused { message } if message.contains(said)), "{found:?}");
        assert!(trial.retries.is_empty());
    }
}

#[test]
fn a_silent_server_is_left() {
    let mut trial = Trial::of(vec![File::made("a.parquet", 1, 1000).with(Fault::Silent)]);
    trial.settings.timeout = Duration::from_millis(50);
    trial.settings.retry.tries = 2;
    let (_, fault) = trial.failed();
    assert!(matches!(&fault, FileFault::GaveUp { tries: 2, reason } if reason.contains("timeout")), "{fault:?}");
}

#[test]
fn a_listing_that_lies_about_sizes_is_noticed() {
    for listed in [999, 1001, 0, u64::MAX / 2] {
        let mut trial = Trial::of(vec![File::made("a.parquet", 1, 1000).with(Fault::ListedSize(listed))]);
        match (listed, trial.fetch()) {
            (0, Err(HubError::Files { failed, .. })) => assert!(matches!(failed[0].1, FileFault::Corrupt { .. })),
            (_, Err(HubError::Files { failed, .. })) => {
                let fault = &failed[0].1;
                assert!(
                    matches!(fault, FileFault::Changed { what: "its size", found, .. } if found == "1000"),
                    "{fault:?}"
                );
            }
            // There is no disk for it, which is known before anything is asked for.
            (_, Err(HubError::NoRoom { needed, .. })) => assert!(needed > u64::MAX / 2),
            (_, other) => panic!("{listed}: {other:?}"),
        }
        assert!(!trial.out().join("a.parquet").exists());
    }
}

#[test]
fn answers_that_begin_elsewhere_are_not_taken() {
    let mut trial = Trial::of(vec![File::made("a.parquet", 1, 300_000).with(Fault::WrongRange)]);
    begin(&trial, "a.parquet", 100_000, "\"cdn-0-false\"");
    let (_, fault) = trial.failed();
    assert!(matches!(&fault, FileFault::GaveUp { reason, .. } if reason.contains("from byte 50000")), "{fault:?}");
}

#[test]
fn an_address_that_does_not_speak_tls_is_given_up() {
    let mut trial = Trial::of(vec![File::made("a.parquet", 1, 1000)]);
    trial.settings.endpoint = trial.server.url().replace("http://", "https://");
    trial.settings.retry.tries = 2;
    let refused = trial.fetch().unwrap_err();
    assert!(matches!(refused, HubError::Unreachable { tries: 2, .. }), "{refused:?}");
    // The first failure was told while it was waited.
    assert_eq!(trial.retries.len(), 1);
}

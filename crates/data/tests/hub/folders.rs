//! What a folder, the Hub's cache and a listing may say, and what is done about it.

use super::*;

#[test]
fn nothing_is_written_outside_the_folder() {
    for path in [
        "../x.txt",
        "a/../../x.txt",
        "/tmp/casallm-hub-test.txt",
        "a//x.txt",
        "NUL.txt",
        "C:\\x.txt",
        "fetched.json",
        ".fetching/x.txt",
    ] {
        let mut trial =
            Trial::of(vec![File::git("good.txt", Contents::text("good")), File::git(path, Contents::text("bad"))]);
        trial.request.include = vec!["**".into(), "*".into()];
        let refused = trial.fetch();
        assert!(
            matches!(&refused, Err(HubError::UnsafePath { path: named, .. }) if named == path),
            "{path}: {refused:?}"
        );
        assert!(visible(trial.root.path()).is_empty(), "{path}");
        assert!(!Path::new("/tmp/casallm-hub-test.txt").exists());
        assert!(trial.server.bodies().is_empty());
    }
    let mut trial = Trial::of(vec![File::git("a.txt", Contents::text("1")), File::git("A.txt", Contents::text("2"))]);
    assert!(matches!(trial.fetch(), Err(HubError::UnsafePath { .. })));
}

#[test]
fn a_folder_holds_one_version_of_one_data_set() {
    let files = vec![
        File::git("a.txt", Contents::text("poem")),
        File { converted: true, ..File::git("b.txt", Contents::text("converted")) },
    ];
    let mut trial = Trial::of(files);
    trial.fetch().unwrap();
    trial.request.revision = Some("refs/convert/parquet".into());
    let refused = trial.fetch().unwrap_err().to_string();
    assert!(refused.contains(COMMIT) && refused.contains(CONVERTED) && refused.contains("--out"), "{refused}");
    let elsewhere = Request::new("ada/novels", trial.out()).unwrap();
    let refused = fetch(&elsewhere, &trial.settings, &|| false, &mut |_| {}).unwrap_err().to_string();
    assert!(refused.contains(REPOSITORY) && refused.contains("ada/novels"), "{refused}");
    // The commit by its name is the same version.
    trial.request.revision = Some(COMMIT.into());
    trial.fetch().unwrap();
    fs::write(trial.out().join(MANIFEST), "{\"repository\":").unwrap();
    assert!(matches!(trial.fetch(), Err(HubError::Manifest { .. })));
}

#[test]
fn files_of_others_are_kept_and_damaged_ones_replaced() {
    let files = vec![File::made("a.parquet", 1, 1000), File::made("b.parquet", 2, 1000)];
    let mut trial = Trial::of(files.clone());
    fs::create_dir_all(trial.out()).unwrap();
    // The right bytes, from wherever: kept.
    fs::write(trial.out().join("a.parquet"), files[0].contents.all()).unwrap();
    // Others: not touched.
    fs::write(trial.out().join("b.parquet"), vec![0; 1000]).unwrap();
    let refused = trial.fetch();
    assert!(matches!(&refused, Err(HubError::InTheWay { path }) if path.ends_with("b.parquet")), "{refused:?}");
    assert_eq!(fs::read(trial.out().join("b.parquet")).unwrap(), vec![0; 1000]);
    fs::remove_file(trial.out().join("b.parquet")).unwrap();
    trial.fetch().unwrap();
    assert!(trial.server.bodies().iter().all(|body| body.path == "b.parquet"));
    // Cut short by somebody: fetched anew.
    fs::write(trial.out().join("a.parquet"), b"short").unwrap();
    trial.fetch().unwrap();
    trial.assert_whole(&files);
}

#[test]
fn two_fetches_of_one_folder_do_not_meet() {
    let mut trial = Trial::of(vec![File::git("a.txt", Contents::text("poem"))]);
    fs::create_dir_all(trial.out().join(PARTIALS)).unwrap();
    let lock = casallm_data::file_lock::FileLock::acquire(&trial.out().join(PARTIALS).join("lock")).unwrap();
    assert!(matches!(trial.fetch(), Err(HubError::Busy { pid: Some(pid), .. }) if pid == std::process::id()));
    drop(lock);
    trial.fetch().unwrap();
}

/// The Hub's cache with these files of a snapshot, as `huggingface_hub` lays it out.
#[cfg(unix)]
fn fill_cache(trial: &Trial, files: &[&str]) {
    let own = trial.settings.cache.join("datasets--ada--poems");
    let snapshot = own.join("snapshots").join(COMMIT);
    fs::create_dir_all(own.join("refs")).unwrap();
    fs::create_dir_all(own.join("blobs")).unwrap();
    fs::write(own.join("refs/main"), COMMIT).unwrap();
    for path in files {
        let blob = own.join("blobs").join(trial.server.id(path));
        fs::write(&blob, trial.server.file(path).contents.all()).unwrap();
        let link = snapshot.join(path);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(&blob, &link).unwrap();
    }
}

#[cfg(unix)]
#[test]
fn what_the_hubs_cache_has_is_taken_from_there() {
    let files = vec![
        File::made("data/a.parquet", 1, 1000),
        File::git("b.txt", Contents::text("poem")),
        File::made("c.parquet", 3, 1000),
        File::made("d.parquet", 4, 1000),
    ];
    let mut trial = Trial::of(files.clone());
    fill_cache(&trial, &["data/a.parquet", "b.txt", "c.parquet"]);
    // One is damaged there.
    let blob = trial.settings.cache.join("datasets--ada--poems/blobs").join(trial.server.id("c.parquet"));
    fs::write(&blob, vec![0; 1000]).unwrap();
    let fetched = trial.fetch().unwrap();
    trial.assert_whole(&files);
    assert_eq!((fetched.cached, fetched.received), (1004, 2000));
    assert!(!trial.out().join("b.txt").is_symlink());
    assert_eq!(fs::read(blob).unwrap(), vec![0; 1000], "the cache is not written");
}

#[cfg(unix)]
#[test]
fn without_the_network_the_cache_and_the_folder_serve() {
    let files = vec![File::made("data/a.parquet", 1, 1000), File::git("b.txt", Contents::text("poem"))];
    let mut trial = Trial::of(files.clone());
    trial.settings.offline = true;
    let refused = trial.fetch().unwrap_err().to_string();
    assert!(refused.contains("HF_HUB_OFFLINE") && refused.contains(REPOSITORY), "{refused}");
    fill_cache(&trial, &["data/a.parquet", "b.txt"]);
    trial.fetch().unwrap();
    trial.assert_whole(&files);
    // With neither cache nor network a whole folder is still whole, and a broken one is named.
    fs::remove_dir_all(&trial.settings.cache).unwrap();
    assert!(trial.fetch().unwrap().manifest.complete);
    fs::remove_file(trial.out().join("b.txt")).unwrap();
    let refused = trial.fetch().unwrap_err().to_string();
    assert!(refused.contains("b.txt") && refused.contains("HF_HUB_OFFLINE"), "{refused}");
    assert!(trial.server.asked().is_empty(), "the network was used");
}

#[test]
fn what_is_not_there_is_said_with_what_is() {
    let mut trial =
        Trial::of(vec![File::git("a.txt", Contents::text("poem")), File::git("poems.py", Contents::text("x"))]);
    trial.request.include = vec!["*.parquet".into()];
    let refused = trial.fetch().unwrap_err().to_string();
    assert!(refused.contains("*.parquet") && refused.contains("a.txt, poems.py"), "{refused}");
    trial.request.include.clear();
    trial.request.revision = Some("nowhere".into());
    let refused = trial.fetch().unwrap_err().to_string();
    assert!(refused.contains("ada/poems at nowhere") && refused.contains("404"), "{refused}");
    assert!(!trial.out().exists(), "a folder was left behind");
}

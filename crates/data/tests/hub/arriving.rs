//! Data sets that arrive, whatever the weather.

use super::*;

#[test]
fn a_data_set_arrives_whole_and_only_once() {
    let files = vec![
        File::made("data/a.parquet", 1, 300_000),
        File::made("data/b.parquet", 2, 65_536),
        File::git("c.jsonl", Contents::text("{\"text\":\"a poem\"}\n")),
        File::git("d e/é%.txt", Contents::text("another")),
        File::git("empty.txt", Contents::text("")),
        File::git("README.md", Contents::text("# Poems")),
        File::git(".gitattributes", Contents::text("x")),
    ];
    let mut trial = Trial::of(files.clone());
    let fetched = trial.fetch().unwrap();
    trial.assert_whole(&files[..5]);
    assert_eq!(visible(&trial.out()), [PARTIALS, "c.jsonl", "d e", "data", "empty.txt", MANIFEST]);
    assert_eq!(visible(&trial.out().join(PARTIALS)), ["lock"]);
    // The folder is a recipe's source as it is.
    let sources: Vec<_> = find_files(&trial.out()).unwrap();
    assert_eq!(sources.len(), 5, "{sources:?}");

    let manifest = Manifest::read(&trial.out()).unwrap().unwrap();
    assert_eq!(manifest, fetched.manifest);
    assert_eq!((manifest.commit.as_str(), manifest.revision.as_str(), manifest.complete), (COMMIT, "main", true));
    assert_eq!(manifest.licence.as_deref(), Some("cc0-1.0"));
    for file in &manifest.files {
        let path = trial.out().join(&file.path);
        assert_eq!(file.sha256, Some(casallm_data::durable::sha256_of_file(&path).unwrap()), "{}", file.path);
        assert_eq!(file.git_sha1.is_some(), !trial.server.file(&file.path).lfs);
    }
    // The token went home only, and it went there.
    let asked = trial.server.asked();
    assert!(asked.iter().any(|(home, ..)| !home), "nothing was redirected");
    for (home, path, authorization) in asked {
        assert_eq!(authorization.as_deref(), home.then_some("Bearer hf_secret"), "{path}");
    }
    let bodies = trial.server.bodies();
    assert_eq!(bodies.len(), 4, "{bodies:?}");
    assert_eq!(fetched.received, bodies.iter().map(|body| body.sent).sum::<u64>());

    trial.server.forget();
    let again = trial.fetch().unwrap();
    assert_eq!((trial.server.bodies().len(), again.received), (0, 0));
    assert_eq!(again.manifest, fetched.manifest);
}

#[test]
fn forty_files_come_through_any_weather() {
    let files: Vec<File> = (0..40).map(|i| File::made(&format!("data/{i:02}.parquet"), i, 200_000 + i)).collect();
    let weather = Weather { cut: 300, busy: 100, broken: 100, wrong_length: 50, no_range: 50, corrupt: 20 };
    for seed in 0..2 {
        let mut trial = Trial::new(Setup { weather, seed, page: 7, ..Setup::of(files.clone()) });
        // A file that is damaged three times in a row is another test's.
        trial.settings.retry.tries = 40;
        trial.fetch().unwrap();
        trial.assert_whole(&files);
        assert!(trial.retries.len() > 20, "the weather was fine: {:?}", trial.retries);
    }
}

#[test]
fn a_cut_connection_is_continued_at_the_next_byte() {
    let files = vec![File::made("a.parquet", 1, 500_000).with(Fault::CutAfter(70_000))];
    let mut trial = Trial::of(files.clone());
    let fetched = trial.fetch().unwrap();
    trial.assert_whole(&files);
    let bodies = trial.server.bodies();
    assert_eq!(bodies.iter().map(|body| body.from).collect::<Vec<_>>(), (0..8).map(|i| i * 70_000).collect::<Vec<_>>());
    assert_eq!(fetched.received, 500_000);
}

#[test]
fn a_stopped_fetch_goes_on_where_it_was() {
    let files: Vec<File> = (0..4).map(|i| File::made(&format!("{i}.parquet"), i, 3_000_000)).collect();
    let mut trial = Trial::of(files.clone());
    let stop = AtomicBool::new(false);
    let (request, settings) = (trial.request.clone(), trial.settings.clone());
    let stopped = fetch(&request, &settings, &|| stop.load(Ordering::Relaxed), &mut |event| {
        if matches!(event, Event::Placed { .. }) {
            stop.store(true, Ordering::Relaxed);
        }
    });
    assert!(matches!(stopped, Err(HubError::Interrupted)), "{stopped:?}");
    let manifest = Manifest::read(&trial.out()).unwrap().unwrap();
    assert!(!manifest.complete);
    let there: Vec<bool> = files.iter().map(|file| trial.out().join(&file.path).exists()).collect();
    assert!(there.contains(&true), "one was placed");
    trial.server.forget();
    trial.fetch().unwrap();
    trial.assert_whole(&files);
    for (file, there) in files.iter().zip(there) {
        let asked = trial.server.bodies().iter().any(|body| body.path == file.path);
        assert!(!(there && asked), "{} was fetched twice", file.path);
    }
}

#[test]
fn what_passes_is_waited_out_as_long_as_the_server_wants() {
    for fault in [
        Fault::StatusFirst(503, 3, 0),
        Fault::StatusFirst(429, 1, 1),
        Fault::Expired(2),
        Fault::NoLength,
        Fault::NoRanges(3),
    ] {
        let files = vec![File::made("a.parquet", 1, 200_000).with(fault)];
        let mut trial = Trial::of(files.clone());
        trial.fetch().unwrap();
        trial.assert_whole(&files);
        if fault == Fault::StatusFirst(429, 1, 1) {
            assert_eq!(trial.retries.iter().map(|(_, _, wait)| *wait).collect::<Vec<_>>(), [Duration::from_secs(1)]);
        }
    }
}

#[test]
fn the_same_bytes_under_two_names_come_once() {
    let files = vec![File::made("a.parquet", 1, 1000), File::made("sub/b.parquet", 1, 1000)];
    let mut trial = Trial::of(files.clone());
    trial.fetch().unwrap();
    trial.assert_whole(&files);
    assert_eq!(trial.server.bodies().len(), 1);
    assert_eq!(visible(&trial.out().join(PARTIALS)), ["lock"]);
}

#[test]
fn a_repository_with_a_program_only_is_taken_as_the_hub_converted_it() {
    let files = vec![
        File::git("poems.py", Contents::text("import os")),
        File { converted: true, ..File::made("default/train/0000.parquet", 1, 1000) },
    ];
    let mut trial = Trial::of(files.clone());
    let fetched = trial.fetch().unwrap();
    trial.assert_whole(&files[1..]);
    assert_eq!(
        (fetched.manifest.commit.as_str(), fetched.manifest.revision.as_str()),
        (CONVERTED, "refs/convert/parquet")
    );
    // Run again it stays there.
    assert_eq!(trial.fetch().unwrap().manifest, fetched.manifest);
}

#[test]
fn tokens_choose_and_more_of_them_add() {
    let files: Vec<File> = (0..5).map(|i| File::made(&format!("{i}.parquet"), i, 10_000)).collect();
    let mut trial = Trial::of(files.clone());
    trial.request.tokens = Some(4000);
    let fetched = trial.fetch().unwrap();
    assert_eq!(fetched.manifest.files.len(), 2, "0.35 tokens a byte");
    assert_eq!(fetched.estimate.unwrap().tokens, 7000);
    trial.server.forget();
    trial.request.tokens = Some(10_000);
    assert_eq!(trial.fetch().unwrap().manifest.files.len(), 3);
    assert_eq!(trial.server.bodies().len(), 1);
    // Fewer take nothing away.
    trial.request.tokens = Some(1);
    assert_eq!(trial.fetch().unwrap().manifest.files.len(), 3);
    trial.assert_whole(&files[..3]);
}

#[test]
fn every_file_is_of_the_commit_that_was_pinned() {
    let mut trial = Trial::of(vec![File::made("a.parquet", 1, 1000), File::git("b.txt", Contents::text("poem"))]);
    trial.fetch().unwrap();
    let resolved: BTreeMap<String, usize> =
        trial.server.asked().into_iter().filter(|(_, path, _)| path.contains("/resolve/")).fold(
            BTreeMap::new(),
            |mut counts, (_, path, _)| {
                *counts.entry(path.split("/resolve/").nth(1).unwrap()[..40].to_owned()).or_default() += 1;
                counts
            },
        );
    assert_eq!(resolved, BTreeMap::from([(COMMIT.to_owned(), 2)]));
}

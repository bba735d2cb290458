//! The dashboard's routes, against folders that are written meanwhile.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use casallm_serve::api::{Key, Options};
use casallm_serve::runs::Runs;
use serde_json::Value;

use super::client::{get, raw, request};
use super::server::{Running, Setup};

fn start(folder: &Path) -> Running {
    let options = Options { runs: Some(Arc::new(Runs::new(folder))), ..Options::default() };
    Setup { options, ..Setup::default() }.start()
}

fn append(folder: &Path, name: &str, text: &str) {
    fs::create_dir_all(folder.join(name)).unwrap();
    let path = folder.join(name).join("metrics.jsonl");
    OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

fn rows(steps: std::ops::RangeInclusive<u64>) -> String {
    let row = |step: u64| {
        let validation = if step.is_multiple_of(3) { format!("\"val_loss\":{step}.25,") } else { String::new() };
        format!(
            "{{\"step\":{step},\"stage\":\"pretrain\",\"tokens\":{},\"loss\":{step}.5,{validation}\"lr\":0.5,\
             \"timing\":{{\"seconds\":{step},\"tokens_per_s\":null}}}}\n",
            step * 64
        )
    };
    steps.map(row).collect()
}

/// What the bytes of a response say: the head, steps and losses of the rows, places and values of validation.
struct Columns {
    head: Value,
    step: Vec<f64>,
    loss: Vec<f32>,
    validation: Vec<(f64, f64)>,
}

fn columns(address: SocketAddr, query: &str) -> Columns {
    let response = get(address, &format!("/api/runs/a/columns{query}"));
    assert_eq!((response.status, response.header("content-type")), (200, Some("application/octet-stream")));
    let bytes = &response.body;
    assert_eq!(&bytes[..4], b"CRC1");
    let length = u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
    let head: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let rows = head["rows"].as_u64().unwrap() as usize;
    let mut at = (8 + length).next_multiple_of(8);
    let doubles = |count: usize, at: &mut usize| -> Vec<f64> {
        let values = bytes[*at..*at + 8 * count].chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap()));
        *at += 8 * count;
        values.collect()
    };
    let step = doubles(rows, &mut at);
    at += 16 * rows;
    let mut loss = Vec::new();
    for name in head["dense"].as_array().unwrap() {
        let values = bytes[at..at + 4 * rows].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        if name == "loss" {
            loss = values.collect();
        }
        at += 4 * rows;
    }
    at = at.next_multiple_of(8);
    let mut validation = Vec::new();
    for column in head["sparse"].as_array().unwrap() {
        let count = column[1].as_u64().unwrap() as usize;
        let places = doubles(count, &mut at);
        at += 16 * count;
        let values = doubles(count, &mut at);
        if column[0] == "val_loss" {
            validation = places.into_iter().zip(values).collect();
        }
    }
    assert_eq!(at, bytes.len());
    Columns { head, step, loss, validation }
}

#[test]
fn columns_go_on_from_where_they_ended_and_begin_anew_when_the_file_was_cut_back() {
    let folder = tempfile::tempdir().unwrap();
    append(folder.path(), "a", &rows(1..=4));
    let server = start(folder.path());
    let first = columns(server.address, "");
    assert_eq!((first.step, first.loss), (vec![1.0, 2.0, 3.0, 4.0], vec![1.5, 2.5, 3.5, 4.5]));
    assert_eq!(first.validation, [(3.0, 3.25)]);
    assert_eq!(first.head["dense"], serde_json::json!(["loss", "lr"]));
    let epoch = first.head["epoch"].as_u64().unwrap();

    append(folder.path(), "a", &(rows(5..=6) + "{\"step\":7"));
    let next = columns(server.address, &format!("?epoch={epoch}&from=4&stage=pretrain"));
    assert_eq!((next.step, next.validation), (vec![5.0, 6.0], vec![(6.0, 6.25)]));
    assert_eq!((&next.head["from"], &next.head["total"]), (&4.into(), &6.into()));
    assert!(columns(server.address, &format!("?epoch={epoch}&from=6")).step.is_empty());
    assert!(columns(server.address, &format!("?epoch={epoch}&from=99999999999")).step.is_empty());
    // Of another epoch, and of another stage.
    assert_eq!(columns(server.address, "?epoch=1&from=4").step.len(), 6);
    assert_eq!(columns(server.address, "?stage=sft").head["stage"], Value::Null);

    fs::write(folder.path().join("a/metrics.jsonl"), rows(1..=2)).unwrap();
    let anew = columns(server.address, &format!("?epoch={epoch}&from=6"));
    assert_eq!((anew.step.len(), anew.head["from"].as_u64()), (2, Some(0)));
    assert_ne!(anew.head["epoch"], epoch);
}

#[test]
fn the_list_events_and_recipe_say_what_the_folder_holds() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    assert_eq!(get(server.address, "/api/runs").json()["runs"], serde_json::json!([]));
    append(
        folder.path(),
        "a",
        &(rows(1..=3) + "junk\n{\"event\":\"sample\",\"step\":3,\"stage\":\"pretrain\",\"text\":\"<b>\"}\n"),
    );
    append(folder.path(), "deep/b c", &rows(1..=1));
    fs::write(folder.path().join("a/settings.toml"), "[pretrain]\nsteps = 9\n").unwrap();
    let list = get(server.address, "/api/runs").json();
    let of = |name: &str| list["runs"].as_array().unwrap().iter().find(|run| run["name"] == name).unwrap().clone();
    assert_eq!((&of("a")["latest"]["step"], &of("a")["latest"]["planned"]), (&3.into(), &9.into()));
    assert_eq!((&of("a")["running"], &list["chat"]), (&false.into(), &true.into()));
    assert_eq!(get(server.address, "/api/config").json()["runs"], true);
    assert_eq!(get(server.address, "/api/runs/deep%2Fb%20c/columns").status, 200);
    let events = get(server.address, "/api/runs/a/events").json();
    assert_eq!((&events["total"], &events["events"][0]["text"]), (&1.into(), &"<b>".into()));
    let none = get(server.address, &format!("/api/runs/a/events?epoch={}&from=1", events["epoch"])).json();
    assert_eq!(none["events"], serde_json::json!([]));
    assert_eq!(columns(server.address, "").head["first_damaged"], 4);
    let recipe = get(server.address, "/api/runs/a/recipe").json();
    assert_eq!(recipe["text"], "[pretrain]\nsteps = 9\n");
    assert_eq!(recipe["sha256"].as_str().unwrap().len(), 64);
    assert_eq!(get(server.address, "/api/runs/deep%2Fb%20c/recipe").json(), Value::Null);
}

#[test]
fn no_name_is_a_path_and_every_route_is_guarded() {
    let folder = tempfile::tempdir().unwrap();
    append(folder.path(), "runs/a", &rows(1..=1));
    fs::write(folder.path().join("metrics.jsonl"), rows(1..=1)).unwrap();
    let options =
        |key| Options { runs: Some(Arc::new(Runs::new(folder.path().join("runs")))), key, ..Options::default() };
    let server = Setup { options: options(None), ..Setup::default() }.start();
    for name in ["..", "%2e%2e", "..%2Fruns%2Fa", "a%2F..%2Fa", "%2Fetc", "a%00", "b", "%ff"] {
        for route in ["columns", "events", "recipe"] {
            let response = get(server.address, &format!("/api/runs/{name}/{route}"));
            assert!(matches!(response.status, 400 | 404), "{name}: {response:?}");
            response.is_error();
        }
    }
    assert_eq!(get(server.address, "/api/runs/a/columns?from=-1").status, 400);
    let foreign = raw(server.address, &request("GET", "/api/runs", &[("Sec-Fetch-Site", "cross-site")], b""));
    assert_eq!(foreign.status, 403);
    drop(server);
    let server = Setup { options: options(Some(Key::new("0123456789").unwrap())), ..Setup::default() }.start();
    for path in ["/api/runs", "/api/runs/a/columns", "/api/runs/a/events", "/api/runs/a/recipe"] {
        assert_eq!(get(server.address, path).status, 401, "{path}");
    }
    assert_eq!(get(server.address, "/runs/").status, 200);
}

#[test]
fn a_dashboard_without_a_model_is_all_there_is_and_a_chat_without_runs_has_none() {
    let folder = tempfile::tempdir().unwrap();
    let runs = Some(Arc::new(Runs::new(folder.path())));
    let options = Options { runs, dashboard_only: true, ..Options::default() };
    let server = Setup { options, loaded: false, ..Setup::default() }.start();
    let home = get(server.address, "/");
    assert_eq!((home.status, home.header("location")), (307, Some("runs/")));
    let page = get(server.address, "/runs/");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'none'"));
    assert_eq!(get(server.address, "/runs").header("location"), Some("runs/"));
    assert_eq!(get(server.address, "/health").json()["status"], "ready");
    assert_eq!(get(server.address, "/api/runs").json()["chat"], false);
    for path in ["/api/config", "/v1/models"] {
        let refused = get(server.address, path);
        assert_eq!(refused.status, 404, "{path}");
        assert!(refused.is_error()["message"].as_str().unwrap().contains("--model"), "{path}");
    }
    let chat = Setup::default().start();
    for path in ["/runs/", "/api/runs"] {
        let refused = get(chat.address, path);
        assert_eq!(refused.status, 404, "{path}");
        assert!(refused.is_error()["message"].as_str().unwrap().contains("--runs"), "{path}");
    }
}

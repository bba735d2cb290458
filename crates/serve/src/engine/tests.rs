use std::path::Path;
use std::time::{Duration, Instant};

use casallm_model::sampler::SamplerConfig;

use super::fake::FakeModel;
use super::slots::LEAST_READ;
use super::*;

const VOCAB_SIZE: usize = 997;

fn start(model: FakeModel, config: &EngineConfig) -> Engine {
    Engine::start(model, config, None).unwrap()
}

fn request(prompt: &[u32], max_new_tokens: usize) -> Request {
    Request {
        prompt: prompt.to_vec(),
        sampling: SamplerConfig::greedy(),
        draws: 0,
        max_new_tokens,
        stop_ids: vec![0],
        top_logprobs: None,
        priority: Priority::Interactive,
    }
}

/// What the fake says by itself.
fn alone(prompt: &[u32], most: usize, context: usize) -> (Vec<u32>, Finish) {
    let mut ids = prompt.to_vec();
    loop {
        let next = FakeModel::next(&ids, VOCAB_SIZE);
        let made = ids.len() - prompt.len();
        if next == 0 {
            return (ids[prompt.len()..].to_vec(), Finish::Stop);
        }
        ids.push(next);
        if made + 1 == most {
            return (ids[prompt.len()..].to_vec(), Finish::Length);
        }
        if ids.len() == context {
            return (ids[prompt.len()..].to_vec(), Finish::Context);
        }
    }
}

#[derive(Debug)]
struct Heard {
    ids: Vec<u32>,
    finish: Finish,
    usage: Usage,
}

fn hear(mut generation: Generation) -> Heard {
    let mut ids = Vec::new();
    loop {
        match generation.blocking_next().expect("the engine ends what it began") {
            Event::Token { id, .. } => ids.push(id),
            Event::Finished { finish, usage } => return Heard { ids, finish, usage },
            Event::Failed(error) => panic!("{error}"),
            Event::Started { .. } | Event::Reading { .. } => {}
        }
    }
}

fn text(seed: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| 1 + (i * 31 + seed * 101 + i * i % 7) % 900).collect()
}

#[test]
fn answers_are_those_of_the_model_alone_whatever_the_company() {
    let engine = start(FakeModel::new(3, 300, VOCAB_SIZE), &EngineConfig::default());
    let prompts: Vec<Vec<u32>> = (0..40).map(|i| text(i % 13, 1 + (i as usize * 37) % 290)).collect();
    let generations: Vec<Generation> = prompts.iter().map(|p| engine.submit(request(p, 60)).unwrap()).collect();
    for (prompt, generation) in prompts.iter().zip(generations) {
        let heard = hear(generation);
        assert_eq!((heard.ids, heard.finish), alone(prompt, 60, 300));
        assert_eq!(heard.usage.prompt_tokens, prompt.len());
    }
    let stats = engine.stats();
    assert_eq!((stats.finished, stats.cancelled, stats.waiting), (40, 0, 0));
}

#[test]
fn a_conversation_reads_only_what_is_new() {
    let model = FakeModel::new(2, 2000, VOCAB_SIZE);
    let passes = model.passes();
    let engine = start(model, &EngineConfig::default());
    let mut conversation = text(1, 200);
    for turn in 0..8 {
        let held = conversation.len();
        conversation.extend(text(50 + turn, 30));
        passes.lock().unwrap().clear();
        let heard = hear(engine.submit(request(&conversation, 20)).unwrap());
        // All that was read before: the last token of an answer has not been.
        let cached = if turn == 0 { 0 } else { held - 1 };
        assert_eq!(heard.usage.cached_tokens, cached, "turn {turn}");
        let read: usize = passes.lock().unwrap().iter().flatten().map(|(_, tokens)| tokens).sum();
        assert_eq!(read, conversation.len() - cached + heard.ids.len() - 1, "turn {turn}");
        conversation.extend(heard.ids);
    }
}

#[test]
fn the_best_match_is_taken_from_wherever_it_lies() {
    // One sequence only, so that conversations push one another into the store.
    let engine = start(FakeModel::new(1, 1000, VOCAB_SIZE), &EngineConfig::default());
    let system = text(1, 100);
    let conversation = |seed: u32, n: usize| [system.clone(), text(seed, n)].concat();
    let said = |prompt: &[u32]| {
        let heard = hear(engine.submit(request(prompt, 5)).unwrap());
        assert_eq!((heard.ids, heard.finish), alone(prompt, 5, 1000));
        heard.usage.cached_tokens
    };
    assert_eq!(said(&conversation(2, 300)), 0);
    assert_eq!(said(&conversation(3, 200)), 100);
    assert_eq!(said(&conversation(4, 50)), 100);
    // The longest, not the first: 400 of the first conversation, of which the last few are read again.
    assert_eq!(said(&conversation(2, 300)), 400 - LEAST_READ);
    assert_eq!(said(&[conversation(3, 200), text(9, 20)].concat()), 300);
    // A branch inside the first conversation.
    assert_eq!(said(&[conversation(2, 220), text(8, 30)].concat()), 320);
    assert!(engine.stats().stored_bytes > 0);
}

#[test]
fn what_gives_way_is_kept_also_when_the_other_is_longer() {
    let engine = start(FakeModel::new(1, 2000, VOCAB_SIZE), &EngineConfig::default());
    let (long, short) = (text(2, 1000), text(3, 900));
    let cached = |prompt: &[u32]| hear(engine.submit(request(prompt, 5)).unwrap()).usage.cached_tokens;
    assert_eq!((cached(&long), cached(&short)), (0, 0));
    assert_eq!((cached(&long), cached(&short)), (1000 - LEAST_READ, 900 - LEAST_READ));
}

#[test]
fn logits_that_are_no_numbers_are_one_requests_affair_and_not_kept() {
    let said = [alone(&text(2, 100), 50, 500).0, alone(&text(1, 100), 5, 500).0].concat();
    let last = (901..VOCAB_SIZE as u32).find(|id| !said.contains(id)).unwrap();
    let engine = start(FakeModel::new(2, 500, VOCAB_SIZE).ill_after(last), &EngineConfig::default());
    let ill = [text(1, 100), vec![last]].concat();
    let well = engine.submit(request(&text(2, 100), 50)).unwrap();
    let mut failing = engine.submit(request(&ill, 5)).unwrap();
    let mut last = None;
    while let Some(event) = failing.blocking_next() {
        last = Some(event);
    }
    assert!(matches!(last, Some(Event::Failed(_))), "{last:?}");
    assert_eq!(hear(well).ids, alone(&text(2, 100), 50, 500).0);
    let again = hear(engine.submit(request(&text(1, 100), 5)).unwrap());
    assert_eq!((again.ids, again.usage.cached_tokens), (alone(&text(1, 100), 5, 500).0, 0));
    assert_eq!((engine.stats().failed, engine.stats().finished), (1, 2));
}

#[test]
fn memory_for_what_is_stored_is_bounded() {
    let config = EngineConfig { stored_bytes: 4 * 500, ..EngineConfig::default() };
    let engine = start(FakeModel::new(1, 1000, VOCAB_SIZE), &config);
    for seed in 0..20 {
        hear(engine.submit(request(&text(seed, 150), 5)).unwrap());
        assert!(engine.stats().stored_bytes <= 4 * 500);
    }
    // The latest are there still, the oldest are not.
    assert_eq!(hear(engine.submit(request(&text(17, 150), 5)).unwrap()).usage.cached_tokens, 150 - LEAST_READ);
    assert_eq!(hear(engine.submit(request(&text(2, 150), 5)).unwrap()).usage.cached_tokens, 0);
}

#[test]
fn what_is_kept_on_disk_outlives_the_engine() {
    let dir = tempfile::tempdir().unwrap();
    let with_disk = |dir: &Path, fingerprint: &str| {
        let spill = Spill::open(dir, fingerprint, 1 << 20).unwrap();
        Engine::start(FakeModel::new(2, 1000, VOCAB_SIZE), &EngineConfig::default(), Some(spill)).unwrap()
    };
    let engine = with_disk(dir.path(), "model");
    for seed in 0..5 {
        hear(engine.submit(request(&text(seed, 200), 5)).unwrap());
    }
    engine.shutdown();
    for _ in 0..2 {
        let engine = with_disk(dir.path(), "model");
        let prompt = text(3, 200);
        let heard = hear(engine.submit(request(&prompt, 5)).unwrap());
        assert_eq!(heard.usage.cached_tokens, 200 - LEAST_READ);
        assert_eq!(heard.ids, alone(&prompt, 5, 1000).0);
    }
    // Damage costs time, not truth.
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "kv") {
            continue;
        }
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.len() - 10;
        bytes[at] ^= 4;
        std::fs::write(&path, bytes).unwrap();
    }
    let engine = with_disk(dir.path(), "model");
    let heard = hear(engine.submit(request(&text(3, 200), 5)).unwrap());
    assert_eq!((heard.ids, heard.usage.cached_tokens), (alone(&text(3, 200), 5, 1000).0, 0));
    drop(engine);
    assert_eq!(hear(with_disk(dir.path(), "other").submit(request(&text(3, 200), 5)).unwrap()).usage.cached_tokens, 0);
}

/// As a GPU that falls off the bus: every pass from then on is the same error, and what is read of its memory is nothing.
#[test]
fn a_device_that_fails_ends_the_model_and_leaves_nothing_of_its_memory_on_disk() {
    let kept = |dir: &Path| {
        let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        names.filter(|path| path.extension().is_some_and(|extension| extension == "kv")).count()
    };
    // Noticed by a request, or by nobody until the end.
    for noticed in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let model = FakeModel::new(2, 1000, VOCAB_SIZE);
        let failure = model.failure();
        let spill = Spill::open(dir.path(), "model", 1 << 20).unwrap();
        let engine = Engine::start(model, &EngineConfig::default(), Some(spill)).unwrap();
        hear(engine.submit(request(&text(1, 200), 5)).unwrap());
        assert!(!engine.is_broken());
        failure.store(true, std::sync::atomic::Ordering::Release);
        if noticed {
            let mut late = engine.submit(request(&text(2, 200), 5)).unwrap();
            let events: Vec<Event> = std::iter::from_fn(|| late.blocking_next()).collect();
            let told = matches!(events.last(), Some(Event::Failed(reason)) if reason.contains("told to fail"));
            assert!(told, "{events:?}");
            assert!(engine.is_broken(), "nobody may take it for ready");
            assert!(matches!(engine.submit(request(&text(1, 10), 3)), Err(SubmitError::Broken)));
            let stats = engine.stats();
            assert_eq!((stats.running, stats.waiting, stats.failed), (0, 0, 1));
        }
        engine.shutdown();
        assert_eq!(kept(dir.path()), 0, "noticed {noticed}");
    }
}

#[test]
fn a_long_prompt_does_not_hold_up_the_others() {
    let model = FakeModel::new(2, 6000, VOCAB_SIZE).slow(Duration::from_micros(20));
    let passes = model.passes();
    // A chunk of two milliseconds is a hundred tokens.
    let config = EngineConfig { chunk: Duration::from_millis(2), ..EngineConfig::default() };
    let engine = start(model, &config);
    let mut first = engine.submit(request(&text(1, 50), 3000)).unwrap();
    while !matches!(first.blocking_next(), Some(Event::Token { .. })) {}
    let second = engine.submit(request(&text(2, 5000), 5)).unwrap();
    assert_eq!(hear(second).ids.len(), 5);
    drop(first);
    engine.shutdown();
    let passes = passes.lock().unwrap();
    let chunks: Vec<usize> = (0..passes.len()).filter(|i| passes[*i][0].1 > 1).collect();
    assert!(chunks.len() > 20, "{} chunks", chunks.len());
    // Between two chunks there is always a pass for the other's next token.
    let between = chunks.windows(2).filter(|pair| pair[1] == pair[0] + 1).count();
    assert!(between <= 1, "{between} chunks came straight after another");
}

#[test]
fn whoever_goes_away_frees_the_sequence_even_while_the_prompt_is_read() {
    let model = FakeModel::new(1, 100_000, VOCAB_SIZE).slow(Duration::from_micros(10));
    let passes = model.passes();
    let short = Duration::from_millis(1);
    let config = EngineConfig { chunk: short, chunk_alone: short, ..EngineConfig::default() };
    let engine = start(model, &config);
    let mut long = engine.submit(request(&text(1, 90_000), 5)).unwrap();
    while !matches!(long.blocking_next(), Some(Event::Reading { .. })) {}
    let waiting = engine.submit(request(&text(3, 10), 5)).unwrap();
    drop(engine.submit(request(&text(4, 10), 5)).unwrap());
    drop(long);
    assert_eq!(hear(waiting).ids, alone(&text(3, 10), 5, 100_000).0);
    let read: usize = passes.lock().unwrap().iter().flatten().map(|(_, tokens)| tokens).sum();
    assert!(read < 45_000, "{read} tokens were read for nobody");
    // In the midst of an answer as well.
    let mut answer = engine.submit(request(&text(5, 10), 90_000)).unwrap();
    while !matches!(answer.blocking_next(), Some(Event::Token { .. })) {}
    drop(answer);
    hear(engine.submit(request(&text(6, 10), 2)).unwrap());
    assert_eq!(engine.stats().cancelled, 3);
}

#[test]
fn a_chunk_is_broken_off_when_nobody_waits_for_it() {
    // A first chunk of 3 s in eight blocks.
    let model = FakeModel::new(1, 1000, VOCAB_SIZE).slow(Duration::from_millis(100));
    let (passes, broken_off) = (model.passes(), model.broken_off());
    let engine = start(model, &EngineConfig::default());
    let long = engine.submit(request(&text(1, 500), 5)).unwrap();
    while passes.lock().unwrap().is_empty() {
        std::thread::yield_now();
    }
    drop(long);
    // What was broken off is not taken for held.
    let heard = hear(engine.submit(request(&text(1, 20), 1)).unwrap());
    assert_eq!((heard.ids, heard.usage.cached_tokens), (alone(&text(1, 20), 1, 1000).0, 0));
    assert_eq!(broken_off.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[test]
fn chunks_are_longer_while_nobody_waits_for_a_token() {
    // Times that no clock gets near: chunks grow as fast as they may, or are the shortest there are.
    let config = EngineConfig {
        chunk: Duration::from_nanos(1),
        chunk_alone: Duration::from_secs(3600),
        ..EngineConfig::default()
    };
    let passes_of = |priority: Priority| {
        let model = FakeModel::new(1, 5000, VOCAB_SIZE);
        let passes = model.passes();
        let mut asked = request(&text(1, 3000), 1);
        asked.priority = priority;
        hear(start(model, &config).submit(asked).unwrap());
        passes.lock().unwrap().len()
    };
    assert!(passes_of(Priority::Interactive) < 15);
    // What can wait leaves room for who comes.
    assert!(passes_of(Priority::Background) > 150);
}

#[test]
fn the_queue_is_bounded_and_bad_requests_are_named() {
    let config = EngineConfig { queue: 2, ..EngineConfig::default() };
    let engine = start(FakeModel::new(1, 50_000, VOCAB_SIZE).slow(Duration::from_micros(100)), &config);
    let mut first = engine.submit(request(&text(1, 10), 40_000)).unwrap();
    while !matches!(first.blocking_next(), Some(Event::Token { .. })) {}
    let queued: Vec<Generation> = (0..2).map(|i| engine.submit(request(&text(i, 10), 3)).unwrap()).collect();
    assert!(matches!(engine.submit(request(&text(9, 10), 3)), Err(SubmitError::QueueFull { waiting: 2 })));
    drop(first);
    for generation in queued {
        hear(generation);
    }
    hear(engine.submit(request(&text(9, 10), 3)).unwrap());
    for prompt in [vec![], vec![1, VOCAB_SIZE as u32]] {
        assert!(matches!(engine.submit(request(&prompt, 3)), Err(SubmitError::Prompt(_))));
    }
    let long = engine.submit(request(&text(1, 50_000), 3));
    assert!(matches!(long, Err(SubmitError::TooLong { tokens: 50_000, context: 50_000 })));
    let mut bad = request(&text(1, 10), 3);
    bad.sampling.top_p = f32::NAN;
    assert!(matches!(engine.submit(bad), Err(SubmitError::Sampling(_))));
    assert!(hear(engine.submit(request(&text(1, 10), 0)).unwrap()).ids.is_empty());
    engine.shutdown();
    assert!(matches!(engine.submit(request(&text(1, 10), 3)), Err(SubmitError::ShuttingDown)));
}

#[test]
fn what_can_wait_gives_way_and_goes_on_later() {
    let engine = start(FakeModel::new(1, 5000, VOCAB_SIZE).slow(Duration::from_micros(50)), &EngineConfig::default());
    let mut background = request(&text(1, 100), 300);
    background.priority = Priority::Background;
    background.stop_ids.clear();
    let mut slow = engine.submit(background).unwrap();
    let mut ids = Vec::new();
    while ids.len() < 3 {
        if let Some(Event::Token { id, .. }) = slow.blocking_next() {
            ids.push(id);
        }
    }
    assert_eq!(hear(engine.submit(request(&text(2, 100), 10)).unwrap()).ids, alone(&text(2, 100), 10, 5000).0);
    let rest = hear(slow);
    ids.extend(rest.ids);
    let mut all = text(1, 100);
    while all.len() < 400 {
        all.push(FakeModel::next(&all, VOCAB_SIZE));
    }
    assert_eq!(ids, all[100..]);
    assert_eq!(rest.usage.completion_tokens, 300);
}

#[test]
fn what_ends_an_answer_is_not_penalised_for_having_ended_the_messages_before() {
    let engine = start(FakeModel::new(1, 100, VOCAB_SIZE), &EngineConfig::default());
    let ends = |prompt: &Vec<u32>| FakeModel::next(prompt, VOCAB_SIZE) == 0;
    let prompt = (0..).map(|seed| [&[0][..], &text(seed, 9)].concat()).find(ends).unwrap();
    let mut asked = request(&prompt, 5);
    // So large that what is penalised is as likely as anything else.
    asked.sampling = SamplerConfig { temperature: 0.1, repetition_penalty: 1e30, ..SamplerConfig::default() };
    let heard = hear(engine.submit(asked).unwrap());
    assert_eq!((heard.ids, heard.finish), (vec![], Finish::Stop));
}

#[test]
fn probabilities_come_with_the_tokens() {
    let engine = start(FakeModel::new(1, 100, VOCAB_SIZE), &EngineConfig::default());
    let mut asked = request(&text(1, 10), 2);
    asked.top_logprobs = Some(2);
    let mut generation = engine.submit(asked).unwrap();
    let mut seen = 0;
    while let Some(event) = generation.blocking_next() {
        if let Event::Token { id, logprobs, .. } = event {
            let logprobs = logprobs.unwrap();
            assert_eq!((logprobs.top[0].0, logprobs.top[0].1, logprobs.top.len()), (id, logprobs.chosen, 2));
            seen += 1;
        }
    }
    assert_eq!(seen, 2);
}

#[test]
fn tokens_carry_the_time_at_which_they_were_chosen_not_heard() {
    let engine = start(FakeModel::new(1, 100, VOCAB_SIZE), &EngineConfig::default());
    let mut late = engine.submit(request(&text(1, 10), 5)).unwrap();
    // One sequence only: when another answer is heard, the first has ended.
    hear(engine.submit(request(&text(2, 10), 5)).unwrap());
    let ended = Instant::now();
    let mut times = Vec::new();
    while let Some(event) = late.blocking_next() {
        if let Event::Token { at, .. } = event {
            times.push(at);
        }
    }
    assert_eq!(times.len(), 5);
    assert!(times.is_sorted() && times[4] <= ended);
}

#[test]
fn a_panic_ends_whoever_runs_and_waits_and_whoever_comes() {
    let engine = start(FakeModel::new(1, 300, VOCAB_SIZE).panics_at(7), &EngineConfig::default());
    let submitted: Vec<_> = (0..3).map(|_| engine.submit(request(&[7; 20], 3))).collect();
    assert!(submitted[0].is_ok());
    // The thread may have been faster than the later ones.
    for mut generation in submitted.into_iter().flatten() {
        while generation.blocking_next().is_some() {}
        assert!(matches!(generation.cut_short(), SubmitError::Broken));
    }
    assert!(matches!(engine.submit(request(&text(1, 10), 3)), Err(SubmitError::Broken)));
    let stats = engine.stats();
    assert_eq!((engine.is_broken(), stats.running, stats.waiting), (true, 0, 0));
}

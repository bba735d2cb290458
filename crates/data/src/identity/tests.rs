use super::*;

fn casa() -> Identity {
    Identity::new("CasaLLM", "the Casa family", "a small language model trained at home").unwrap()
}

fn questions(conversations: &[Conversation]) -> BTreeSet<String> {
    conversations
        .iter()
        .flat_map(|c| &c.messages)
        .filter(|m| m.role == Role::User)
        .map(|m| normalise(&m.content))
        .collect()
}

#[test]
fn held_out_wordings_are_forty_and_in_no_generated_conversation() {
    let held_out = held_out_wordings();
    assert_eq!(held_out.len(), 40);
    for must in ["what is a cell", "do you like pizza"] {
        assert!(held_out.contains(must));
    }
    let asked = questions(&generate(&casa(), 60_000, 1));
    let leaked: Vec<_> = held_out.intersection(&asked).collect();
    assert!(leaked.is_empty(), "{leaked:?}");
}

#[test]
fn held_out_wordings_are_dropped_from_the_given_conversations() {
    let given = vec![Conversation::exchange("what is a CELL", "x"), Conversation::exchange("Fine?", "Yes.")];
    let fine = [Conversation::exchange("Fine?", "Yes.")];
    assert_eq!(mix(given, &casa(), 0.0, 0).unwrap(), (fine.to_vec(), 1));
    assert_eq!(mix(fine.to_vec(), &casa(), 0.5, 0).unwrap().1, 0);
}

#[test]
fn wordings_cover_the_space() {
    let mut rng = SplitMix64::new(0, 0);
    let identity = casa();
    let decks = Decks::new(&identity, &mut rng);
    let counts: Vec<(Intent, usize)> = decks.asked.iter().map(|(i, _, d)| (*i, d.cards.len())).collect();
    assert!(counts.iter().all(|(_, n)| *n >= 40), "{counts:?}");
    assert!(counts.iter().map(|(_, n)| n).sum::<usize>() >= 2000, "{counts:?}");
    // A wording with two meanings would be answered in two ways.
    let mut seen = BTreeSet::new();
    let twice: Vec<&String> =
        decks.asked.iter().flat_map(|(_, _, d)| &d.cards).filter(|w| !seen.insert(normalise(w))).collect();
    assert!(twice.is_empty(), "{twice:?}");
    let contrast: BTreeSet<String> =
        decks.contrast.iter().flat_map(|(_, d)| &d.cards).map(|e| normalise(&e.question)).collect();
    let both: Vec<_> = contrast.intersection(&seen).collect();
    assert!(both.is_empty(), "{both:?}");
}

#[test]
fn identity_answers_name_it_and_contrast_answers_do_not() {
    let identity = casa();
    let mut rng = SplitMix64::new(5, 0);
    let mut decks = Decks::new(&identity, &mut rng);
    for _ in 0..5000 {
        let e = decks.identity(&mut rng).unwrap();
        assert!(names_identity(&e.answer, &identity), "{e:?}");
        assert!(!names_another(&e.answer) && !e.answer.contains(['{', '}']), "{e:?}");
        let e = decks.contrast(&mut rng).unwrap();
        assert!(!names_identity(&e.answer, &identity), "{e:?}");
    }
}

#[test]
fn generation_is_seeded() {
    assert_eq!(generate(&casa(), 50, 3), generate(&casa(), 50, 3));
    assert_ne!(generate(&casa(), 50, 3), generate(&casa(), 50, 4));
}

#[test]
fn mixing_holds_the_rate_and_every_given_message() {
    let given: Vec<_> = (0..900).map(|i| Conversation::exchange(format!("given {i}"), format!("answer {i}"))).collect();
    let (mixed, _) = mix(given.clone(), &casa(), 0.25, 7).unwrap();
    assert_eq!(mixed.len(), 1200);
    let asked = questions(&mixed);
    assert!(given.iter().all(|c| asked.contains(&normalise(&c.messages[0].content))));
    assert_ne!(mixed[..900], given[..]);
    for c in &mixed {
        assert!(!c.messages.is_empty());
        let alternating = c.messages.iter().enumerate().all(|(i, m)| (m.role == Role::User) == (i % 2 == 0));
        assert!(alternating, "{c:?}");
    }
}

#[test]
fn rate_outside_its_range_is_refused() {
    for rate in [-0.1, 0.95, f64::NAN] {
        assert!(matches!(mix(Vec::new(), &casa(), rate, 0), Err(Error::MixRate { .. })));
    }
}

#[test]
fn identity_fields_are_checked() {
    let cases = [("", "m", "d"), ("n", " . ", "d"), ("n", "m", "a\u{0}b"), ("<s>", "m", "d"), ("{name}", "m", "d")];
    for (name, maker, description) in cases {
        let result = Identity::new(name, maker, description);
        assert!(matches!(result, Err(Error::IdentityField { .. })), "{name} {maker} {description}");
    }
    let fine = Identity::new(" Casa ", "Ann Lee.", "a small model.").unwrap();
    assert_eq!((fine.name(), fine.maker(), fine.description()), ("Casa", "Ann Lee", "a small model"));
}

#[test]
fn a_recipe_with_a_bad_identity_is_refused_while_parsing() {
    let parse = serde_json::from_str::<Identity>;
    assert!(parse(r#"{"name":"A","maker":"B","description":"c"}"#).is_ok());
    assert!(parse(r#"{"name":"","maker":"B","description":"c"}"#).is_err());
    assert!(parse(r#"{"name":"A","maker":"B","description":"c","motto":"d"}"#).is_err());
}

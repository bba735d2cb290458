//! What of a conversation goes to the model when not all of it fits: pure planning on numbers of tokens.
//!
//! A plan is a function of the branch, its notes and the budget alone. It is made so that the plan for the next message of
//! a branch mostly begins with the same messages: the model then finds in its cache what it has read. Therefore turns are not
//! dropped one at a time but down to half of the budget, and a note is not used before it is needed.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What is done with a conversation that the model cannot hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Older turns are condensed into a note.
    #[default]
    Summarise,
    /// Older exchanges are left out.
    DropOldest,
    /// There is no answer.
    Refuse,
}

/// The conversation has no place in the context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "the conversation has {tokens} tokens and the model reads at most {room} of them: shorten the message or the system \
     prompt, begin another conversation, or let the server drop or summarise older turns (--overflow)"
)]
pub struct DoesNotFit {
    /// Tokens of what would have to be read at the least.
    pub tokens: usize,
    /// Tokens that may be read, room for the answer excluded.
    pub room: usize,
}

/// A message of the branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Length {
    /// Tokens, with those that the template puts around it.
    pub tokens: usize,
    /// Whether an exchange begins here: it is a person's, and the one before is not.
    pub opens: bool,
}

/// A note that stands for the beginning of the branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoteLength {
    /// How many messages of the branch it condenses, a whole number of exchanges.
    pub messages: usize,
    /// Tokens.
    pub tokens: usize,
}

/// How much there is room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Tokens of the model's context.
    pub context: usize,
    /// Tokens that are always there: the system prompt and what the template begins and ends with.
    pub fixed: usize,
    /// Tokens that are kept free for the answer.
    pub reserve: usize,
    /// Tokens of the message that asks for a summary.
    pub instruction: usize,
}

/// The most tokens of an answer that room is kept for. A longer answer may run into the end of the context.
const RESERVE: usize = 1024;

impl Budget {
    /// A budget that keeps an eighth of the context free for the answer, less if the answer is to be shorter.
    pub fn new(context: usize, fixed: usize, max_tokens: Option<usize>, instruction: usize) -> Self {
        let reserve = (context / 8).min(RESERVE).min(max_tokens.unwrap_or(usize::MAX)).max(1);
        Self { context, fixed, reserve, instruction }
    }

    /// Tokens that may be read.
    pub fn room(&self) -> usize {
        self.context.saturating_sub(self.reserve)
    }
}

/// Tokens of a note at most, in a context of so many.
pub fn note_tokens(context: usize) -> usize {
    (context / 8).clamp(1, 512)
}

/// What is given to the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// The note that goes after the system prompt, by its place in the list of notes.
    pub note: Option<usize>,
    /// The first message that is given as it was written.
    pub first: usize,
    /// Tokens that this makes.
    pub tokens: usize,
}

/// Older turns to condense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condense {
    /// The note that is continued, by its place in the list of notes.
    pub note: Option<usize>,
    /// The first message to condense: the one that follows that note.
    pub first: usize,
    /// The message after the last one to condense.
    pub end: usize,
}

/// What to do for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Answer with this.
    Answer(Plan),
    /// Condense this first and decide again; if that fails, answer with the plan.
    Condense(Condense, Plan),
}

/// Decides for a branch whose last message is the one to answer. `notes` are those of the branch, oldest first.
///
/// # Errors
/// [`DoesNotFit`]: always if the last exchange alone has no room, and by the policy `refuse`.
pub fn decide(
    policy: Policy,
    branch: &[Length],
    notes: &[NoteLength],
    budget: &Budget,
) -> Result<Decision, DoesNotFit> {
    let whole = Plan { note: None, first: 0, tokens: budget.fixed + sum(branch) };
    if whole.tokens <= budget.room() {
        return Ok(Decision::Answer(whole));
    }
    match policy {
        Policy::Refuse => Err(DoesNotFit { tokens: whole.tokens, room: budget.room() }),
        Policy::DropOldest => Ok(Decision::Answer(drop_oldest(branch, None, budget)?)),
        Policy::Summarise => {
            // The note that condenses least and fits, so that one remains in use as long as possible.
            let fitting = in_order(notes)
                .map(|(place, note)| with_note(branch, place, note, budget))
                .find(|plan| plan.tokens <= budget.room());
            if let Some(plan) = fitting {
                return Ok(Decision::Answer(plan));
            }
            let last = in_order(notes).last();
            let fallback = drop_oldest(branch, last, budget).or_else(|_| drop_oldest(branch, None, budget))?;
            let open = branch.iter().rposition(|message| message.opens).unwrap_or(0);
            Ok(match condense(branch, last, open, budget) {
                Some(condense) => Decision::Condense(condense, fallback),
                None => Decision::Answer(fallback),
            })
        }
    }
}

/// What to condense after an answer, before it is needed: if the branch, which ends with the answer, takes more than 70 % of the
/// context by any note that it has. The last exchange stays out of it.
pub fn condense_ahead(branch: &[Length], notes: &[NoteLength], budget: &Budget) -> Option<Condense> {
    let much = budget.context * 7 / 10;
    if budget.fixed + sum(branch) <= much
        || in_order(notes).any(|(place, note)| with_note(branch, place, note, budget).tokens <= much)
    {
        return None;
    }
    let open = branch.iter().rposition(|message| message.opens)?;
    condense(branch, in_order(notes).last(), open, budget)
}

/// Notes with their places, the shortest beginning first; of equal ones only the last made.
fn in_order(notes: &[NoteLength]) -> impl Iterator<Item = (usize, NoteLength)> {
    let mut ordered: Vec<(usize, NoteLength)> = notes.iter().copied().enumerate().collect();
    ordered.sort_by_key(|(place, note)| (note.messages, std::cmp::Reverse(*place)));
    ordered.dedup_by_key(|(_, note)| note.messages);
    ordered.into_iter()
}

fn with_note(branch: &[Length], place: usize, note: NoteLength, budget: &Budget) -> Plan {
    let rest = branch.get(note.messages..).unwrap_or_default();
    Plan { note: Some(place), first: note.messages, tokens: budget.fixed + note.tokens + sum(rest) }
}

/// Leaves out whole exchanges after the note, if any: as if the conversation had been answered message by message, and each time
/// that it did not fit had been cut down to half of the room. So a longer branch begins where a shorter one began.
fn drop_oldest(branch: &[Length], note: Option<(usize, NoteLength)>, budget: &Budget) -> Result<Plan, DoesNotFit> {
    let start = note.map_or(0, |(_, note)| note.messages.min(branch.len()));
    let fixed = budget.fixed + note.map_or(0, |(_, note)| note.tokens);
    let half = budget.room() / 2;
    let (mut first, mut tokens) = (start, fixed);
    for (place, message) in branch.iter().enumerate().skip(start) {
        tokens += message.tokens;
        if tokens <= budget.room() {
            continue;
        }
        // The exchange that this message belongs to stays.
        while let Some(next) = (first + 1..=place).find(|&next| branch[next].opens)
            && tokens > half
        {
            tokens -= sum(&branch[first..next]);
            first = next;
        }
    }
    if tokens > budget.room() {
        return Err(DoesNotFit { tokens, room: budget.room() });
    }
    Ok(Plan { note: note.map(|(place, _)| place), first, tokens })
}

/// The exchanges to condense so that what follows, with a note of full length, takes half of the room; all up to `open` if even
/// that is too much. Fewer if the model could not read them together with what is asked of it.
fn condense(branch: &[Length], note: Option<(usize, NoteLength)>, open: usize, budget: &Budget) -> Option<Condense> {
    let first = note.map_or(0, |(_, note)| note.messages);
    let ends = || (first + 1..=open).filter(|&end| branch[end].opens);
    let rests = |end: &usize| budget.fixed + note_tokens(budget.context) + sum(&branch[*end..]) <= budget.room() / 2;
    let wanted = ends().find(rests).or_else(|| ends().next_back())?;
    let read =
        budget.fixed + note.map_or(0, |(_, note)| note.tokens) + budget.instruction + note_tokens(budget.context);
    let end = ends().rfind(|&end| end <= wanted && read + sum(&branch[first..end]) <= budget.context)?;
    Some(Condense { note: note.map(|(place, _)| place), first, end })
}

fn sum(messages: &[Length]) -> usize {
    messages.iter().map(|message| message.tokens).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BUDGET: Budget = Budget { context: 1000, fixed: 50, reserve: 100, instruction: 125 };

    /// A branch of exchanges, a question of `lengths[n]` and an answer of as many, which ends with a question.
    fn asked(lengths: &[usize]) -> Vec<Length> {
        let mut branch = answered(lengths);
        branch.pop();
        branch
    }

    fn answered(lengths: &[usize]) -> Vec<Length> {
        lengths.iter().flat_map(|&tokens| [Length { tokens, opens: true }, Length { tokens, opens: false }]).collect()
    }

    fn answer(policy: Policy, branch: &[Length], notes: &[NoteLength]) -> Plan {
        match decide(policy, branch, notes, &BUDGET).unwrap() {
            Decision::Answer(plan) => plan,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_fits_is_given_whole_whatever_the_policy_and_the_notes() {
        let branch = asked(&[100, 100, 100]);
        let notes = [NoteLength { messages: 2, tokens: 20 }];
        for policy in [Policy::Summarise, Policy::DropOldest, Policy::Refuse] {
            assert_eq!(answer(policy, &branch, &notes), Plan { note: None, first: 0, tokens: 550 });
        }
        // To the last token.
        let branch = [Length { tokens: 850, opens: true }];
        assert_eq!(answer(Policy::Refuse, &branch, &[]).tokens, 900);
        let branch = [Length { tokens: 851, opens: true }];
        assert_eq!(decide(Policy::Refuse, &branch, &[], &BUDGET), Err(DoesNotFit { tokens: 901, room: 900 }));
    }

    #[test]
    fn old_exchanges_are_dropped_to_half_of_the_room() {
        // 50 + 9 * 100 = 950 do not fit; 450 is half.
        let branch = asked(&[100; 5]);
        assert_eq!(answer(Policy::DropOldest, &branch, &[]), Plan { note: None, first: 6, tokens: 350 });
    }

    #[test]
    fn a_last_message_that_does_not_fit_is_refused_by_every_policy() {
        for policy in [Policy::Summarise, Policy::DropOldest, Policy::Refuse] {
            let branch = asked(&[10, 10, 900]);
            let DoesNotFit { tokens, room } = decide(policy, &branch, &[], &BUDGET).unwrap_err();
            assert!(tokens > room && room == 900);
        }
        // A long answer before it is dropped together with its question.
        let branch = [(10, true), (880, false), (30, true)].map(|(tokens, opens)| Length { tokens, opens });
        assert_eq!(answer(Policy::DropOldest, &branch, &[]), Plan { note: None, first: 2, tokens: 80 });
    }

    #[test]
    fn several_messages_of_a_person_are_one_exchange() {
        let lengths = [(300, true), (300, false), (300, false), (100, true), (100, false)];
        let branch = lengths.map(|(tokens, opens)| Length { tokens, opens });
        assert_eq!(answer(Policy::DropOldest, &branch, &[]), Plan { note: None, first: 3, tokens: 250 });
    }

    #[test]
    fn the_note_that_condenses_least_is_used_as_long_as_it_fits() {
        let branch = asked(&[100; 6]);
        let short = NoteLength { messages: 4, tokens: 60 };
        let long = NoteLength { messages: 8, tokens: 70 };
        let plan = Plan { note: Some(1), first: 4, tokens: 50 + 60 + 700 };
        assert_eq!(answer(Policy::Summarise, &branch, &[long, short]), plan);
        let branch = asked(&[100; 7]);
        let plan = Plan { note: Some(0), first: 8, tokens: 50 + 70 + 500 };
        assert_eq!(answer(Policy::Summarise, &branch, &[long, short]), plan);
        // Of two notes for the same messages the later one counts.
        let plan = answer(Policy::Summarise, &branch, &[long, short, NoteLength { messages: 8, tokens: 71 }]);
        assert_eq!((plan.note, plan.tokens), (Some(2), 50 + 71 + 500));
    }

    #[test]
    fn without_a_note_that_fits_older_turns_are_condensed() {
        let branch = asked(&[100; 5]);
        let decision = decide(Policy::Summarise, &branch, &[], &BUDGET).unwrap();
        // 50 + 125 + 100 are less than 450; with another exchange they would be more. 50 + 250 + 800 cannot be read at once.
        let fallback = Plan { note: None, first: 6, tokens: 350 };
        assert_eq!(decision, Decision::Condense(Condense { note: None, first: 0, end: 6 }, fallback));
        // A note is continued, not begun anew.
        let branch = asked(&[100; 9]);
        let note = NoteLength { messages: 8, tokens: 100 };
        let Decision::Condense(condense, fallback) = decide(Policy::Summarise, &branch, &[note], &BUDGET).unwrap()
        else {
            panic!("nine questions do not fit")
        };
        assert_eq!((condense.note, condense.first), (Some(0), 8));
        assert_eq!((fallback.note, fallback.first), (Some(0), 14));
    }

    #[test]
    fn condensing_begins_at_seventy_per_cent_and_spares_the_last_exchange() {
        let ahead = |lengths: &[usize], notes: &[NoteLength]| condense_ahead(&answered(lengths), notes, &BUDGET);
        assert_eq!(ahead(&[100, 100, 125], &[]), None, "700 are not more than 700");
        let condense = ahead(&[100, 100, 126], &[]).unwrap();
        assert_eq!(condense, Condense { note: None, first: 0, end: 4 });
        assert_eq!(ahead(&[400], &[]), None, "there is nothing before the last exchange");
        let note = NoteLength { messages: 4, tokens: 100 };
        assert_eq!(ahead(&[100, 100, 126], &[note]), None, "the note is there already");
        let condense = ahead(&[100, 100, 126, 160], &[note]).unwrap();
        assert_eq!(condense, Condense { note: Some(0), first: 4, end: 6 });
    }

    #[test]
    fn no_more_is_condensed_than_can_be_read() {
        // A branch that came from a model with a longer context.
        let branch = asked(&[100; 50]);
        let Decision::Condense(Condense { first, end, .. }, _) =
            decide(Policy::Summarise, &branch, &[], &BUDGET).unwrap()
        else {
            panic!("it does not fit")
        };
        assert_eq!((first, end), (0, 6), "50 + 250 + 600 of 1000, and 200 more would not fit");
        // A message that cannot be read at all cannot be condensed either.
        let branch = asked(&[700, 100]);
        let plan = Plan { note: None, first: 2, tokens: 150 };
        assert_eq!(decide(Policy::Summarise, &branch, &[], &BUDGET), Ok(Decision::Answer(plan)));
    }

    fn lengths() -> impl Strategy<Value = Vec<usize>> {
        proptest::collection::vec(0..300_usize, 1..40)
    }

    proptest! {
        #[test]
        fn plans_fit_and_begin_with_an_exchange(lengths in lengths(), condensed in 0..20_usize, tokens in 0..200_usize) {
            let branch = asked(&lengths);
            let messages = (2 * condensed).min(branch.len() - 1);
            for policy in [Policy::Summarise, Policy::DropOldest, Policy::Refuse] {
                let Ok(decision) = decide(policy, &branch, &[NoteLength { messages, tokens }], &BUDGET) else { continue };
                let (Decision::Answer(plan) | Decision::Condense(_, plan)) = decision;
                prop_assert!(plan.tokens <= BUDGET.room());
                prop_assert!(branch[plan.first].opens);
                let note = plan.note.map_or(0, |_| tokens);
                prop_assert_eq!(plan.tokens, 50 + note + sum(&branch[plan.first..]));
                if let Decision::Condense(condense, _) = decision {
                    prop_assert!(condense.first < condense.end && branch[condense.end].opens);
                    prop_assert_eq!(condense.first, condense.note.map_or(0, |_| messages));
                    prop_assert!(50 + 250 + sum(&branch[condense.first..condense.end]) <= 1000);
                }
            }
        }

        /// What a cache holds after one message is the beginning of what is read for the next, but where the cut moves.
        #[test]
        fn cuts_move_seldom(lengths in proptest::collection::vec(1..40_usize, 60)) {
            let mut moves = 0;
            let mut before = 0;
            for n in 1..=lengths.len() {
                let plan = answer(Policy::DropOldest, &asked(&lengths[..n]), &[]);
                prop_assert!(plan.first >= before);
                moves += usize::from(plan.first > before);
                before = plan.first;
            }
            let total: usize = lengths.iter().sum();
            // Each move makes room for at least a third of the context.
            prop_assert!(moves <= 1 + 2 * total / 300, "{moves} moves for {total} tokens");
        }
    }
}

//! Generation: an iterator of token ids from a decoder and a sampler. Text lives elsewhere.

use casallm_compute::Device;

use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::sampler::Sampler;

/// What a generation needs of a model: logits after tokens. A test can be one.
pub trait NextLogits {
    /// Reads tokens on top of those read before, and gives the logits that follow.
    ///
    /// # Errors
    /// The tokens do not fit.
    fn extend(&mut self, ids: &[u32]) -> Result<&[f32], ModelError>;
    /// Tokens that can still be read.
    fn room(&self) -> usize;
}

impl<D: Device> NextLogits for Decoder<'_, D> {
    fn extend(&mut self, ids: &[u32]) -> Result<&[f32], ModelError> {
        Decoder::extend(self, ids)
    }

    fn room(&self) -> usize {
        self.capacity() - self.len()
    }
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// A stop token came.
    Stop,
    /// As many tokens as were asked for.
    Length,
    /// The context is full.
    Context,
}

/// An iterator over new token ids; a stop token ends it and is not given.
pub struct Generation<'a, N> {
    model: &'a mut N,
    sampler: &'a mut Sampler,
    stop: Vec<u32>,
    left: usize,
    /// All tokens, the prompt's included: the sampler's history.
    history: Vec<u32>,
    /// How many of them the model has read.
    read: usize,
    finish: Option<Finish>,
}

impl<'a, N: NextLogits> Generation<'a, N> {
    /// Continues `prompt`, which the model has not read yet, by at most `max_new_tokens`.
    pub fn new(
        model: &'a mut N,
        sampler: &'a mut Sampler,
        prompt: &[u32],
        stop: &[u32],
        max_new_tokens: usize,
    ) -> Self {
        let history = prompt.to_vec();
        Generation { model, sampler, stop: stop.to_vec(), left: max_new_tokens, history, read: 0, finish: None }
    }

    /// Why it ended; `None` while it has not, or when it ended with an error.
    pub fn finish(&self) -> Option<Finish> {
        self.finish
    }

    fn step(&mut self) -> Result<Option<u32>, ModelError> {
        if self.left == 0 {
            self.finish = Some(Finish::Length);
            return Ok(None);
        }
        let unread = &self.history[self.read..];
        // The prompt that does not fit is an error; the answer that fills the context is an end.
        if self.read > 0 && unread.len() > self.model.room() {
            self.finish = Some(Finish::Context);
            return Ok(None);
        }
        let logits = self.model.extend(unread)?;
        self.read = self.history.len();
        let id = self.sampler.sample(logits, &self.history)?;
        if self.stop.contains(&id) {
            self.finish = Some(Finish::Stop);
            return Ok(None);
        }
        self.left -= 1;
        self.history.push(id);
        Ok(Some(id))
    }
}

impl<N: NextLogits> Iterator for Generation<'_, N> {
    type Item = Result<u32, ModelError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finish.is_some() {
            return None;
        }
        let next = self.step();
        if next.is_err() {
            // An error is given once.
            self.left = 0;
        }
        next.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::SamplerConfig;

    /// Counts up: after token t comes t + 1.
    struct Counting {
        room: usize,
        logits: Vec<f32>,
    }

    impl NextLogits for Counting {
        fn extend(&mut self, ids: &[u32]) -> Result<&[f32], ModelError> {
            if ids.len() > self.room {
                return Err(ModelError::ContextOverflow { tokens: ids.len(), context: self.room });
            }
            self.room -= ids.len();
            self.logits.fill(0.0);
            let next = (*ids.last().unwrap() as usize + 1) % self.logits.len();
            self.logits[next] = 1.0;
            Ok(&self.logits)
        }

        fn room(&self) -> usize {
            self.room
        }
    }

    fn run(room: usize, prompt: &[u32], stop: &[u32], max: usize) -> (Vec<Result<u32, ModelError>>, Option<Finish>) {
        let mut model = Counting { room, logits: vec![0.0; 50] };
        let mut sampler = Sampler::new(SamplerConfig::greedy()).unwrap();
        let mut generation = Generation::new(&mut model, &mut sampler, prompt, stop, max);
        let ids: Vec<_> = generation.by_ref().collect();
        (ids, generation.finish())
    }

    fn ids(results: Vec<Result<u32, ModelError>>) -> Vec<u32> {
        results.into_iter().map(Result::unwrap).collect()
    }

    #[test]
    fn ends_at_stop_length_and_context() {
        let (found, finish) = run(100, &[3, 4], &[9], 20);
        assert_eq!((ids(found), finish), (vec![5, 6, 7, 8], Some(Finish::Stop)));
        let (found, finish) = run(100, &[3, 4], &[9], 2);
        assert_eq!((ids(found), finish), (vec![5, 6], Some(Finish::Length)));
        let (found, finish) = run(4, &[3, 4], &[40], 20);
        assert_eq!((ids(found), finish), (vec![5, 6, 7], Some(Finish::Context)));
    }

    #[test]
    fn a_prompt_that_does_not_fit_is_one_error() {
        let (found, _) = run(2, &[1, 2, 3], &[9], 20);
        assert_eq!(found.len(), 1);
        assert!(matches!(found[0], Err(ModelError::ContextOverflow { tokens: 3, context: 2 })));
    }
}

//! Drawing on the device: token, position and random numbers live there, and the host reads late.

use std::collections::VecDeque;

use backend::{Draw, Error, Result, SeqId, Stream};
use model::TokenId;

use crate::infer::RINGS;
use crate::kernels::sample::{HEADER, RING};
use crate::{GpuError, GpuInfer};

/// Tokens under way before the host reads one.
const IN_FLIGHT: usize = 2;

impl Stream for GpuInfer {
    fn run(
        &mut self,
        seq: SeqId,
        token: TokenId,
        draw: &Draw,
        emit: &mut dyn FnMut(TokenId) -> bool,
    ) -> Result<()> {
        let sequence = *self.sequences.get(&seq).ok_or(Error::UnknownSequence(seq.0))?;
        let vocab = self.config.vocab;
        if token.0 as usize >= vocab {
            return Err(Error::TokenOutOfRange { token, vocab });
        }
        let start = sequence.len;
        let room = self.positions() - start;
        if room == 0 {
            return Err(Error::SequenceTooLong { got: sequence.len + 1, max: self.positions() });
        }
        let row = [token.0, sequence.len as u32, sequence.slot, 1];
        let header: [u32; HEADER] = [
            draw.temperature.to_bits(),
            draw.top_k.min(vocab) as u32,
            draw.top_p.to_bits(),
            draw.min_p.to_bits(),
            draw.seed as u32,
            (draw.seed >> 32) as u32,
            0,
            0,
        ];
        self.gpu.write(&self.buffers.rows, 0, &row);
        self.gpu.write(&self.buffers.draw, 0, &header);
        let mut flying = VecDeque::new();
        let (mut sent, mut emitted, mut open) = (0, 0, true);
        while open || !flying.is_empty() {
            if open && sent < room && flying.len() < IN_FLIGHT {
                let shape = self.prepare(1, start + sent + 1)?;
                let ring = &self.rings[sent % RINGS];
                let copy = Some((&self.buffers.draw, ((HEADER + RING) * 4) as u64, ring));
                let ticket = if draw.temperature > 0.0 {
                    self.gpu.submit(self.steps(shape).chain(&self.draw), 1, &[], copy)
                } else {
                    self.gpu.submit(self.lists[&shape].iter().chain(&self.greedy), 1, &[], copy)
                };
                flying.push_back((ticket, sent));
                sent += 1;
                if let Some(sequence) = self.sequences.get_mut(&seq) {
                    sequence.written = sequence.written.max(start + sent);
                }
                continue;
            }
            let Some((ticket, n)) = flying.pop_front() else { break };
            let words: Vec<u32> = self.gpu.collect(ticket, &self.rings[n % RINGS], HEADER + RING)?;
            if !open {
                // Drawn behind the end: it is forgotten.
                continue;
            }
            let drawn = TokenId(words[HEADER + n % RING]);
            if drawn.0 == u32::MAX {
                let reason = "every logit is NaN".to_owned();
                return Err(GpuError::Lost { adapter: self.gpu.name().to_owned(), reason }.into());
            }
            emitted += 1;
            if let Some(sequence) = self.sequences.get_mut(&seq) {
                sequence.len += 1;
            }
            open = emit(drawn) && emitted < room;
        }
        Ok(())
    }
}

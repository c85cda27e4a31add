//! `rustane exp guide`: what an agent is told that looks for better settings.

use bench::exp::Budget;

/// The instructions.
pub fn text(budget: Budget) -> String {
    let length = match budget {
        Budget::Tokens(n) => format!("--tokens {n}"),
        Budget::Seconds(n) => format!("--budget {n}s"),
        Budget::Steps(n) => format!("--steps {n}"),
    };
    format!(
        "\
# Looking for better settings

Goal: the lowest `val_bpb`, bits per byte of text that the model was not trained on, at a fixed length of training
({budget} per run). Bits per byte do not depend on the tokenizer, so vocabularies may be compared.

You edit one file, `exp.toml`, in the format of `rustane train --print-config`. You do not change the program, the
data (`[data]`), the validation (`train.eval_tokens`), the seeds or the length of a run: they are the measure.

## Once

1. `rustane presets cp tiny exp.toml`
2. `rustane exp run {length} --seeds 1,2,3 --config exp.toml --desc \"baseline\"`

## Again and again

1. `rustane exp log` and `rustane exp best`: what was tried, and what leads. Do not try the same twice.
2. Begin with the best settings: `rustane exp best --toml > exp.toml`. Change one thing, or two that belong together:
   widths and depth (`model.dim`, `model.hidden`, `model.layers`, `model.heads`, `model.kv_heads`, `model.head_dim`),
   the vocabulary (`model.vocab`), learning rates (`optimizer.lr`, `optimizer.muon_lr`), their course
   (`optimizer.schedule`, `optimizer.warmup`, `optimizer.final_lr`), the rule (`optimizer.kind`), tokens per update
   (`train.batch`, `train.seq`), weight decay, betas, clipping.
3. `rustane exp run {length} --seeds 1,2,3 --config exp.toml --desc \"what you changed and why\"`
4. Read the last lines:
   - `verdict: keep`: it leads with P(better) of at least 0.95. Go on from it.
   - `verdict: unsure`: better on average. Compare on more seeds: run both again with `--seeds 1,2,3,4,5,6`.
   - `verdict: discard`: go back to the best settings.
   - `verdict: failed`: `rustane exp log` shows the error. Settings that cannot be are refused before anything runs.

A difference that one seed shows may be chance; `rustane exp compare A B` tells P(better) over the seeds that both have.
The ledger `experiments/ledger.jsonl` is appended to by `rustane exp run` alone: never edit it.
Do not stop to ask. When ideas run out, combine what helped, go further in its direction, or undo an early choice.
"
    )
}

#[cfg(test)]
mod tests {
    use engine::RunConfig;

    use super::*;

    #[test]
    fn names_only_settings_that_there_are() {
        let known = crate::settings::flatten(&RunConfig::default());
        let text = text(Budget::Tokens(5));
        assert!(text.contains("--tokens 5"));
        let named = text.split('`').skip(1).step_by(2).filter(|word| {
            ["model.", "train.", "optimizer."].iter().any(|section| word.starts_with(section))
        });
        let mut count = 0;
        for key in named {
            assert!(known.contains_key(key), "{key} is no setting");
            count += 1;
        }
        assert!(count > 10);
    }
}

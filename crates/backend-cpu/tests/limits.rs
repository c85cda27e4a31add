//! What a plan cannot hold is an error, never a crash.

use std::error::Error as _;

use backend::conformance::{configs, tokens};
use backend::{Error, Tokens, Train};
use backend_cpu::{Cpu, Plan};
use model::TokenId;

#[test]
fn a_plan_that_no_memory_holds_names_the_bytes() {
    let (_, config) = configs().swap_remove(0);
    let error = Cpu::new(&config, Plan::new(1 << 50)).err().expect("no machine has that");
    assert!(matches!(error, Error::Device { device: "cpu", .. }));
    let source = error.source().expect("it says why").to_string();
    assert!(source.contains("no memory for activations") && source.contains("bytes"), "{source}");
}

#[test]
fn a_configuration_that_is_no_model_is_refused() {
    let (_, mut config) = configs().swap_remove(0);
    config.heads = 0;
    assert!(Cpu::new(&config, Plan::new(8)).is_err());
}

#[test]
fn a_micro_batch_beyond_the_plan_is_refused() {
    let (_, config) = configs().swap_remove(0);
    let mut cpu = Cpu::new(&config, Plan::new(10).with_threads(1)).expect("a small model");
    let ids = tokens(&config, 12, 1);
    let result = cpu.embed(Tokens { ids: &ids, seq: 6 });
    assert!(matches!(result, Err(Error::BatchTooLarge { got: 12, max: 10 })));
    let result = cpu.embed(Tokens { ids: &ids[..10], seq: 10 });
    assert!(result.is_ok());
}

#[test]
fn targets_that_fit_nothing_are_refused() {
    let (_, config) = configs().swap_remove(0);
    let mut cpu = Cpu::new(&config, Plan::new(12).with_threads(1)).expect("a small model");
    let ids = tokens(&config, 12, 1);
    let mut x = || cpu.embed(Tokens { ids: &ids, seq: 6 });
    let (first, second) = (x().expect("embed runs"), x().expect("embed runs"));
    assert!(matches!(cpu.loss(first, &ids[..11]), Err(Error::WrongLength { wanted: 12, got: 11, .. })));
    let mut targets = ids.clone();
    targets[3] = TokenId(config.vocab as u32);
    assert!(matches!(cpu.loss_backward(second, &targets), Err(Error::TokenOutOfRange { .. })));
}

#[test]
fn a_backward_without_its_forward_is_refused() {
    let (_, config) = configs().swap_remove(0);
    let mut cpu = Cpu::new(&config, Plan::new(12).with_threads(1)).expect("a small model");
    let ids = tokens(&config, 12, 1);
    let x = cpu.embed(Tokens { ids: &ids, seq: 6 }).expect("embed runs");
    let error = cpu.ffn_backward(1, x).expect_err("nothing was kept");
    assert!(error.source().expect("it says why").to_string().contains("ffn 1"));
}

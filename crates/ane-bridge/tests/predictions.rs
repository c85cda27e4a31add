//! The clock against published times: rows that the fit did not use, and the fit itself.

use ane_bridge::Chip;
use ane_bridge::predict::{Measured, PUBLISHED, Use, forward_ms, step_ms};

/// Predicted and published pairs of a row: forward, then backward and step where there are any.
fn pairs(chip: &Chip, row: &Measured) -> Vec<(f64, f64)> {
    let mut pairs = vec![(forward_ms(chip, &row.model), row.forward_ms)];
    if let Some([backward, _, total]) = row.step {
        let step = step_ms(chip, &row.model);
        pairs.extend([(step.backward_ms, backward), (step.total_ms(), total)]);
    }
    pairs
}

fn error((predicted, published): (f64, f64)) -> f64 {
    predicted / published - 1.0
}

#[test]
fn held_out_rows_are_predicted() {
    println!("| chip | run | use | forward | backward | step |");
    println!("|---|---|---|---|---|---|");
    let mut held_out = Vec::new();
    for row in PUBLISHED {
        let pairs = pairs(Chip::find(row.chip).unwrap(), row);
        let cells: Vec<String> = (0..3)
            .map(|i| match pairs.get(i) {
                Some(&(a, b)) => format!("{a:.0} / {b:.0} ({:+.1} %)", 100.0 * error((a, b))),
                None => String::new(),
            })
            .collect();
        println!("| {} | {} | {:?} | {} |", row.chip, row.name, row.used, cells.join(" | "));
        if row.used == Use::HeldOut {
            held_out.extend(pairs.into_iter().map(|p| error(p).abs()));
        }
    }
    held_out.sort_by(f64::total_cmp);
    let (median, worst) = (held_out[held_out.len() / 2], held_out[held_out.len() - 1]);
    println!("held out: {} times, median {median:.3}, worst {worst:.3}", held_out.len());
    assert!(median <= 0.03, "median error {median}");
    assert!(worst <= 0.35, "worst error {worst}");
}

#[test]
fn at_most_a_third_of_the_rows_calibrates() {
    let count = |used| PUBLISHED.iter().filter(|row| row.used == used).count();
    assert_eq!(count(Use::Calibration) + count(Use::HeldOut), 25 + 8);
    assert!(3 * count(Use::Calibration) <= 25 + 8);
}

#[test]
fn other_chips_follow_their_one_point() {
    for row in PUBLISHED.iter().filter(|row| matches!(row.used, Use::ChipPoint | Use::OtherChip)) {
        let chip = Chip::find(row.chip).unwrap();
        for pair in pairs(chip, row) {
            assert!(error(pair).abs() <= 0.35, "{} {}: {pair:?}", row.chip, row.name);
        }
    }
}

/// The fitted constants are where the text says: at the least squares of the calibration rows.
#[test]
fn fitted_constants_are_at_their_minimum() {
    let loss = |chip: &Chip| -> f64 {
        let rows = PUBLISHED.iter().filter(|row| row.used == Use::Calibration);
        rows.flat_map(|row| pairs(chip, row)).map(|(a, b)| (a / b).ln().powi(2)).sum()
    };
    type Field = fn(&mut Chip) -> &mut f64;
    let fitted: [Field; 6] = [
        |c| &mut c.ane.vector_gflops,
        |c| &mut c.ane.tile_bytes,
        |c| &mut c.host.stage_gb_s,
        |c| &mut c.host.restage_gb_s,
        |c| &mut c.host.conflict,
        |c| &mut c.host.sgemm_tflops,
    ];
    let best = loss(Chip::M4_MAX);
    for (i, field) in fitted.iter().enumerate() {
        for factor in [0.9, 1.1] {
            let mut chip = *Chip::M4_MAX;
            *field(&mut chip) *= factor;
            assert!(loss(&chip) > best, "constant {i} times {factor}: {} < {best}", loss(&chip));
        }
    }
}

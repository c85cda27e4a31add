//! Written by `rustane ane lab merge` from reports of Macs; not changed by hand.

use super::Measured;

#[rustfmt::skip]
pub const MEASURED: &[Measured] = &[
    Measured {
        chip: "M1",
        os: "15.4 (24E1)",
        answers: &[
            (24, "113"),
        ],
        tables: &[
        ],
    },
    Measured {
        chip: "M4 Max",
        os: "26.10 (26A1)",
        answers: &[
            (13, "200 or more"),
            (19, "clamped"),
            (24, "127"),
        ],
        tables: &[
        ],
    },
];

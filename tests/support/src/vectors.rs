//! Known answers: files that another program wrote, with how they were made.

use std::num::ParseIntError;

/// The bytes called `name` in `tests/vectors/version1.txt`, which `version1.py` there makes.
pub fn version1(name: &str) -> Vec<u8> {
    let text = include_str!("../../vectors/version1.txt");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
    bytes(line.unwrap_or_else(|| panic!("there is no vector {name}")))
        .expect("a vector is hexadecimal")
}

fn bytes(hex: &str) -> Result<Vec<u8>, ParseIntError> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16))
        .collect()
}

//! Recovery keys on paper, written a second time from their description, and what people do to
//! them when they type.

use aws_lc_rs::digest::{SHA256, digest};
use proptest::prelude::*;
use psi::Kind;
use psi::protector::RecoveryKey;

use crate::cases;

const SYMBOLS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// CRC-8 as a division of polynomials: the remainder by x^8 + x^2 + x + 1.
fn crc8(bytes: &[u8]) -> u8 {
    let bits = bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1));
    let remainder = bits.chain([0; 8]).fold(0u16, |remainder, bit| {
        let next = remainder << 1 | u16::from(bit);
        if next & 0x100 != 0 {
            next ^ 0x107
        } else {
            next
        }
    });
    remainder as u8
}

/// The nine groups of a key.
fn groups(key: &[u8; 32]) -> Vec<String> {
    let mut groups: Vec<Vec<u8>> = key.chunks(4).map(<[u8]>::to_vec).collect();
    for (number, group) in (1..).zip(&mut groups) {
        let numbered = [&[number], group.as_slice()].concat();
        group.push(crc8(&numbered));
    }
    let all = digest(&SHA256, &[b"psi recovery key v1", key.as_slice()].concat());
    groups.push(all.as_ref()[..5].to_vec());
    groups.iter().map(|group| symbols(group)).collect()
}

fn symbols(group: &[u8]) -> String {
    let bits: Vec<u8> = group
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1))
        .collect();
    let value = |five: &[u8]| {
        five.iter()
            .fold(0, |value, bit| value << 1 | usize::from(*bit))
    };
    bits.chunks(5)
        .map(|five| char::from(SYMBOLS[value(five)]))
        .collect()
}

/// Whether `typed` is refused for its group of that number, counted from 0.
fn is_refused_for(typed: &[String], group: usize) -> bool {
    let error = RecoveryKey::parse(&typed.join("-")).unwrap_err();
    let named = format!("group {} of the recovery key", group + 1);
    error.kind() == Kind::Usage && error.to_string().starts_with(&named)
}

proptest! {
    #![proptest_config(cases(8))]

    #[test]
    fn a_printed_key_is_read_back(key in any::<[u8; 32]>(), separator in "[ \\-\n\t]{0,3}") {
        let groups = groups(&key);
        let read = RecoveryKey::parse(&groups.join(&separator)).unwrap();
        let lines: Vec<String> = groups.chunks(3).map(|line| line.join("-") + "\n").collect();
        prop_assert_eq!(read.display_groups().to_string(), lines.concat());
    }

    #[test]
    fn every_wrong_symbol_is_found_in_its_group(key in any::<[u8; 32]>()) {
        let groups = groups(&key);
        for (at, place) in (0..9).flat_map(|at| (0..8).map(move |place| (at, place))) {
            for symbol in SYMBOLS.iter().map(|s| char::from(*s).to_string()) {
                let mut typed = groups.clone();
                typed[at].replace_range(place..=place, &symbol);
                prop_assert!(typed == groups || is_refused_for(&typed, at), "{:?}", typed);
            }
        }
    }

    #[test]
    fn groups_in_each_others_place_are_found(key in any::<[u8; 32]>()) {
        let groups = groups(&key);
        for (one, other) in (0..9).flat_map(|one| (one + 1..9).map(move |other| (one, other))) {
            let mut typed = groups.clone();
            typed.swap(one, other);
            let is_found = is_refused_for(&typed, one) || is_refused_for(&typed, other);
            prop_assert!(is_found, "{:?}", typed);
        }
    }

    #[test]
    fn symbols_in_each_others_place_are_found(key in any::<[u8; 32]>()) {
        let groups = groups(&key);
        for (at, place) in (0..9).flat_map(|at| (0..7).map(move |place| (at, place))) {
            let mut typed = groups.clone();
            let pair: String = typed[at][place..place + 2].chars().rev().collect();
            typed[at].replace_range(place..place + 2, &pair);
            // Where the group's own sum misses it, that of all groups does not.
            let is_found = typed == groups || is_refused_for(&typed, at) || is_refused_for(&typed, 8);
            prop_assert!(is_found, "{:?}", typed);
        }
    }
}

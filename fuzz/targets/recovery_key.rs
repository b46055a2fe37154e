//! Recovery keys as they are typed: one key has one text, and no message shows any of it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use psi::protector::RecoveryKey;

fuzz_target!(|data: &[u8]| {
    let Ok(typed) = std::str::from_utf8(data) else {
        return;
    };
    match RecoveryKey::parse(typed) {
        Ok(key) => {
            let printed = key.display_groups();
            assert_eq!(symbols(typed), symbols(&printed));
            let again = RecoveryKey::parse(&printed).expect("it was printed");
            assert_eq!(again.display_groups(), printed);
        }
        Err(error) => {
            let told = error.to_string();
            let words: String = told.chars().filter(|c| !c.is_ascii_digit()).collect();
            assert!(MESSAGES.contains(&words.as_str()), "{told}");
            assert!(error.next_step().is_some(), "{told}");
        }
    }
});

/// Every message, less its numbers.
const MESSAGES: [&str; 5] = [
    "a recovery key has  symbols in  groups, not ",
    "group  of the recovery key has  symbols, not ",
    "group  of the recovery key has something at place  that is in no recovery key",
    "group  of the recovery key has a typo, or is in the wrong place",
    "group  of the recovery key does not fit the others: it has a typo, or they are of different keys",
];

fn symbols(text: &str) -> String {
    let kept = text.chars().filter(|c| *c != '-' && !c.is_whitespace());
    kept.map(|c| match c.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        other => other,
    })
    .collect()
}
